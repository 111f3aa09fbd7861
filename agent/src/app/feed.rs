// SPDX-License-Identifier: Apache-2.0
//! What feeds the reconciler from the first moment: the source, and the runtime in which a control plane is asked while the programs are
//! still being loaded. Part of `app`.
//!
//! Invariant: when the feed ends, nothing is left that could send a command.

use std::{
    future,
    sync::{Arc, mpsc},
};

use anyhow::{Context as _, Result};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{oneshot, watch},
    task::JoinHandle,
    time::sleep,
};

use crate::{
    admin::Node,
    config::AgentConfig,
    reconcile::thread::Command,
    source::{SourceStatus, Version, host, input::Input, local::FileSource, watch::SourceWatch},
    xds::{
        identity,
        link::{Announced, Link},
    },
};

/// The source, at work.
pub(super) struct Feed {
    /// What became of the configuration.
    pub(super) source: watch::Receiver<Arc<SourceStatus>>,
    /// What was desired at the start; `None` if a control plane has to be waited for.
    pub(super) desired: Option<Version>,
    changes: Changes,
    announce: watch::Sender<Option<Arc<Node>>>,
    runtime: Runtime,
}

impl Feed {
    /// Opens the source of `config`. A control plane is asked at once; what it says is sent as `commands`.
    pub(super) fn start(config: &AgentConfig, commands: mpsc::Sender<Command>) -> Result<Self> {
        let input = Input::open(config)?;
        let (source, desired) = (input.status(), input.desired());
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let (announce, announced) = watch::channel(None);
        let inside = runtime.enter();
        let changes = Changes::start(config, input, commands, announced);
        drop(inside);
        Ok(Self {
            source,
            desired,
            changes,
            announce,
            runtime,
        })
    }

    /// Runs `task` until the feed ends.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Tells the tasks about `node` and runs `serve` until it ends, and with it all tasks.
    pub(super) fn run<T, F: Future<Output = Result<T>>>(
        self,
        node: Arc<Node>,
        serve: impl FnOnce(Arc<Node>, Changes) -> F,
    ) -> Result<T> {
        self.announce.send_replace(Some(Arc::clone(&node)));
        self.runtime.block_on(serve(node, self.changes))
    }
}

/// What changes while the agent serves.
pub(super) enum Changes {
    /// Files, which are read here.
    Files(Box<(FileSource, SourceWatch)>),
    /// A control plane, which has tasks of its own.
    Control {
        saver: JoinHandle<()>,
        stop: oneshot::Sender<()>,
    },
}

impl Changes {
    /// Inside of the runtime. A control plane is asked at once, while the programs are loaded.
    fn start(
        config: &AgentConfig,
        input: Input,
        commands: mpsc::Sender<Command>,
        announced: Announced,
    ) -> Self {
        match input {
            Input::Files(source, watch) => Self::Files(Box::new((source, watch))),
            Input::Control(mut source, client) => {
                let (stop, stopped) = oneshot::channel();
                let saver = tokio::spawn(source.saver().run(stopped));
                let identity = identity::node(config);
                tokio::spawn(Link::new(client, identity, source, commands, announced).run());
                Self::Control { saver, stop }
            }
        }
    }

    /// Waits for the next change of files.
    pub(super) async fn next(&mut self) -> Version {
        match self {
            Self::Files(files) => loop {
                let (source, watch) = &mut **files;
                let is_new = tokio::select! {
                    () = watch.changed() => source.reload(&watch.unfinished()),
                    () = sleep(host::PERIOD) => source.follow_addresses(),
                };
                if is_new {
                    return source.desired();
                }
            },
            Self::Control { .. } => future::pending().await,
        }
    }

    /// Waits until the last state of a control plane is on disk.
    pub(super) async fn finish(self) -> Result<()> {
        if let Self::Control { saver, stop } = self {
            // It has ended already if it cannot receive this.
            let _ = stop.send(());
            saver.await.context("save the control plane's state")?;
        }
        Ok(())
    }
}
