// SPDX-License-Identifier: Apache-2.0
//! Topologies: nodes joined by a fabric, pods on them, as network namespaces with cgroups of their own.
//!
//! ```text
//!  node "a" (netns, cgroup)            fabric (netns)            node "b"
//!   ├ br0 10.1.0.1/24, fd10:1::1/64                               ├ br0 10.2.0.1/24
//!   │  ├ pod 10.1.0.10   up0 192.168.0.1 ── bridge ── 192.168.0.2 │  └ pod 10.2.0.10
//!   │  └ pod 10.1.0.11       fd10:ff::1                fd10:ff::2
//! ```
//!
//! Invariant: every name contains the id of the test's process, and what a dead process left is removed by the next one.

mod leftovers;

use std::{
    cell::{Cell, RefCell},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    rc::Rc,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context as _, Result, ensure};
use nodemesh_agent::datapath::{PinRoot, host};

use crate::{
    agent::Agent,
    cgroup::Cgroup,
    netns::{NetNs, run_ip_in},
    process::{Place, Process, binary},
};

/// Folder of bpf file systems.
const BPFFS: &str = "/sys/fs/bpf";

/// A topology. Nodes and pods may be dropped in any order; everything is gone when the last of them is.
#[derive(Debug)]
pub struct Topology {
    id: String,
    shared: Rc<Shared>,
    /// Namespaces of the nodes so far, by number less one.
    nodes: RefCell<Vec<String>>,
}

/// What lives as long as any part of the topology. Fields are dropped in this order.
#[derive(Debug)]
struct Shared {
    fabric: NetNs,
    cgroup: Cgroup,
    scratch: PathBuf,
    pins: PathBuf,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // No process of ours may be left when its programs go.
        if let Err(error) = crate::cgroup::remove(self.cgroup.path()) {
            eprintln!("cannot end the processes of a topology: {error:#}");
        }
        leftovers::remove_folders(&self.scratch, &self.pins);
    }
}

impl Topology {
    /// A topology without nodes.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static PREPARED: Once = Once::new();
        let mount = host::cgroup_root(None)?;
        PREPARED.call_once(|| prepare(&mount));
        let id = format!(
            "nm{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let scratch = std::env::temp_dir().join(&id);
        fs::create_dir(&scratch).with_context(|| format!("create {}", scratch.display()))?;
        let fabric = NetNs::create(&format!("{id}-fabric"))?;
        fabric.configure(&["link add br0 type bridge".into(), "link set br0 up".into()])?;
        let cgroup = Cgroup::create(&mount, &id)?;
        let pins = Path::new(BPFFS).join(&id);
        let shared = Rc::new(Shared {
            fabric,
            cgroup,
            scratch,
            pins,
        });
        Ok(Self {
            id,
            shared,
            nodes: RefCell::default(),
        })
    }

    /// Adds a node, which reaches all others.
    pub fn node(&self, name: &str) -> Result<Node> {
        let number = self.nodes.borrow().len() + 1;
        ensure!(number < 250, "a topology has at most 249 nodes");
        let netns = NetNs::create(&format!("{}-{name}", self.id))?;
        let fabric = self.shared.fabric.name();
        netns.configure(&[
            format!("link add up0 type veth peer name port{number} netns {fabric}"),
            format!("addr add 192.168.0.{number}/24 dev up0"),
            format!("addr add fd10:ff::{number:x}/64 dev up0 nodad"),
            "link set up0 up".into(),
            "link add br0 type bridge".into(),
            format!("addr add 10.{number}.0.1/24 dev br0"),
            format!("addr add fd10:{number:x}::1/64 dev br0 nodad"),
            "link set br0 up".into(),
        ])?;
        self.shared.fabric.configure(&[
            format!("link set port{number} master br0"),
            format!("link set port{number} up"),
        ])?;
        enable_forwarding(&netns)?;
        self.join(&netns, number)?;
        let cgroup = Cgroup::create(self.shared.cgroup.path(), name)?;
        Ok(Node {
            name: name.to_owned(),
            number,
            netns,
            cgroup,
            pods: Cell::new(10),
            shared: self.shared.clone(),
        })
    }

    /// Joins a pod to the fabric as host `number`, by one more link of this name; returns its IPv4 address there.
    pub fn attach(&self, pod: &Pod, link: &str, number: u8) -> Result<String> {
        let (fabric, address) = (&self.shared.fabric, format!("192.168.0.{number}"));
        pod.netns.configure(&[
            format!(
                "link add {link} type veth peer name port{number} netns {}",
                fabric.name()
            ),
            format!("addr add {address}/24 dev {link}"),
            format!("addr add fd10:ff::{number:x}/64 dev {link} nodad"),
            format!("link set {link} up"),
        ])?;
        fabric.configure(&[
            format!("link set port{number} master br0"),
            format!("link set port{number} up"),
        ])?;
        Ok(address)
    }

    /// Gives the new node routes to the pods of all others, and them routes to its own.
    fn join(&self, netns: &NetNs, number: usize) -> Result<()> {
        let mut nodes = self.nodes.borrow_mut();
        let mut routes = Vec::new();
        for (index, other) in nodes.iter().enumerate() {
            routes.extend(routes_to(index + 1));
            run_ip_in(other, &routes_to(number))?;
        }
        netns.configure(&routes)?;
        nodes.push(netns.name().to_owned());
        Ok(())
    }
}

fn routes_to(number: usize) -> [String; 2] {
    [
        format!("route add 10.{number}.0.0/24 via 192.168.0.{number}"),
        format!("route add fd10:{number:x}::/64 via fd10:ff::{number:x}"),
    ]
}

fn enable_forwarding(netns: &NetNs) -> Result<()> {
    netns
        .run(|| {
            // Which namespace these files are about is decided by the thread that opens them.
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        })?
        .context("turn on forwarding")
}

/// Once per process: no leftovers of dead ones, and a bpf file system before several agents want to mount one.
fn prepare(cgroup_mount: &Path) {
    leftovers::sweep(cgroup_mount, Path::new(BPFFS));
    if let Err(error) = host::ensure_bpffs(Path::new(BPFFS)) {
        eprintln!("{error:#}");
    }
}

/// A node: pods, and an agent.
#[derive(Debug)]
pub struct Node {
    name: String,
    number: usize,
    netns: NetNs,
    cgroup: Cgroup,
    /// Number of the last pod: part of its addresses.
    pods: Cell<usize>,
    shared: Rc<Shared>,
}

impl Node {
    /// Adds a pod, with the next free address.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        self.pod_in(name, name)
    }

    /// The same, in the cgroup that `cgroup` is below the node's; those above it stay when the pod is gone.
    pub fn pod_in(&self, name: &str, cgroup: &str) -> Result<Pod> {
        let host = self.pods.get() + 1;
        self.pods.set(host);
        let (number, node) = (self.number, self.netns.name());
        let netns = NetNs::create(&format!("{node}-{name}"))?;
        let (v4, v6) = (
            Ipv4Addr::new(10, number as u8, 0, host as u8),
            Ipv6Addr::new(0xfd10, number as u16, 0, 0, 0, 0, 0, host as u16),
        );
        self.netns.configure(&[
            format!(
                "link add pod{host} type veth peer name eth0 netns {}",
                netns.name()
            ),
            format!("link set pod{host} master br0"),
            format!("link set pod{host} up"),
        ])?;
        netns.configure(&[
            format!("addr add {v4}/24 dev eth0"),
            format!("addr add {v6}/64 dev eth0 nodad"),
            "link set eth0 up".into(),
            format!("route add default via 10.{number}.0.1"),
            format!("route add default via fd10:{number:x}::1"),
        ])?;
        let cgroup = self.cgroup.path().join(cgroup);
        let (parent, leaf) = (cgroup.parent(), cgroup.file_name());
        let (parent, leaf) = parent.zip(leaf).context("the name of a cgroup")?;
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        let cgroup = Cgroup::create(parent, &leaf.to_string_lossy())?;
        Ok(Pod {
            v4,
            v6,
            cgroup,
            netns,
            _shared: self.shared.clone(),
        })
    }

    /// A host outside the mesh, on a link of its own to this node: `172.16.<node>.2` and `fd16:<node>::2`. Its cgroup is not below the
    /// one that the node's agent serves.
    pub fn outsider(&self, name: &str) -> Result<Pod> {
        let (number, node) = (self.number, self.netns.name());
        let netns = NetNs::create(&format!("{node}-{name}"))?;
        let (v4, v6) = (
            Ipv4Addr::new(172, 16, number as u8, 2),
            Ipv6Addr::new(0xfd16, number as u16, 0, 0, 0, 0, 0, 2),
        );
        self.netns.configure(&[
            format!("link add ext0 type veth peer name eth0 netns {}", netns.name()),
            format!("addr add 172.16.{number}.1/24 dev ext0"),
            format!("addr add fd16:{number:x}::1/64 dev ext0 nodad"),
            "link set ext0 up".into(),
        ])?;
        netns.configure(&[
            format!("addr add {v4}/24 dev eth0"),
            format!("addr add {v6}/64 dev eth0 nodad"),
            "link set eth0 up".into(),
            format!("route add default via 172.16.{number}.1"),
            format!("route add default via fd16:{number:x}::1"),
        ])?;
        let cgroup = Cgroup::create(self.shared.cgroup.path(), &format!("{}-{name}", self.name))?;
        Ok(Pod {
            v4,
            v6,
            cgroup,
            netns,
            _shared: self.shared.clone(),
        })
    }

    /// An agent for this node, not yet started. Its own cgroup is in the mesh, as a DaemonSet's is.
    pub fn agent(&self) -> Result<Agent> {
        let cgroup = Cgroup::create(self.cgroup.path(), "agent")?;
        let place = Place {
            netns: self.netns.path(),
            cgroup: cgroup.path().into(),
        };
        let pins = self.shared.pins.join(&self.name);
        Agent::new(
            place,
            cgroup,
            self.cgroup.path(),
            &pins,
            &self.shared.scratch.join(&self.name),
        )
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node's network namespace.
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// The cgroup that the node's agent serves.
    pub fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    /// Folder for the node's maps and links.
    pub fn pins(&self) -> PinRoot {
        PinRoot::new(self.shared.pins.join(&self.name))
    }
}

/// A pod.
#[derive(Debug)]
pub struct Pod {
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    cgroup: Cgroup,
    netns: NetNs,
    _shared: Rc<Shared>,
}

impl Pod {
    /// Its IPv4 address.
    pub fn v4(&self) -> IpAddr {
        self.v4.into()
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> IpAddr {
        self.v6.into()
    }

    /// Its network namespace.
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    /// Where its processes run.
    pub fn place(&self) -> Place {
        Place {
            netns: self.netns.path(),
            cgroup: self.cgroup.path().into(),
        }
    }

    /// Starts one of the workspace's binaries, or a program by its absolute path.
    pub fn spawn<S: AsRef<std::ffi::OsStr>>(&self, program: &str, arguments: &[S]) -> Result<Process> {
        let path = if program.starts_with('/') {
            program.into()
        } else {
            binary(program)
        };
        Process::spawn(&self.place(), &path, arguments)
    }

    /// Starts a server and waits until it listens.
    pub fn serve<S: AsRef<std::ffi::OsStr>>(&self, program: &str, arguments: &[S]) -> Result<Process> {
        let server = self.spawn(program, arguments)?;
        server.wait_for_line(|line| line.starts_with("listening on"))?;
        Ok(server)
    }
}
