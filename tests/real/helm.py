# SPDX-License-Identifier: Apache-2.0
"""`helm` over Helm's own library, as far as the tests and the documentation need it:

    helm install|upgrade RELEASE CHART [-n NAMESPACE] [--create-namespace] [--set KEY=VALUE]...
    helm uninstall RELEASE [-n NAMESPACE]
"""

import argparse

import helm_python
import yaml


def values(settings):
    found = {}
    for setting in settings:
        path, _, text = setting.partition("=")
        *folders, last = path.split(".")
        at = found
        for folder in folders:
            at = at.setdefault(folder, {})
        at[last] = yaml.safe_load(text)
    return found


def main():
    parser = argparse.ArgumentParser(prog="helm")
    parser.add_argument("verb", choices=["install", "upgrade", "uninstall"])
    parser.add_argument("release")
    parser.add_argument("chart", nargs="?")
    parser.add_argument("-n", "--namespace", default="default")
    parser.add_argument("--create-namespace", action="store_true")
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    with helm_python.Config(namespace=arguments.namespace) as config:
        if arguments.verb == "install":
            config.install(
                arguments.chart,
                arguments.release,
                values(arguments.set),
                namespace=arguments.namespace,
                create_namespace=arguments.create_namespace,
            )
        elif arguments.verb == "upgrade":
            config.upgrade(arguments.chart, arguments.release, values(arguments.set))
        else:
            config.uninstall(arguments.release)
    print(f"{arguments.verb}: {arguments.release}")


main()
