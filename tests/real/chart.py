# SPDX-License-Identifier: Apache-2.0
"""Renders the chart of deploy/helm as Helm would install it: the resources as a list of JSON.

    chart.py RELEASE NAMESPACE VALUES
"""

import json
import sys
from pathlib import Path

import helm_python
import yaml

CHART = Path(__file__).resolve().parent.parent.parent / "deploy/helm/nodemesh"

release, namespace, values = sys.argv[1:]
with helm_python.Chart.load(CHART) as chart:
    rendered = chart.render(values=json.loads(values), name=release, namespace=namespace)
texts = [text for name, text in sorted(rendered.items()) if name.endswith(".yaml")]
print(json.dumps([document for text in texts for document in yaml.safe_load_all(text) if document]))
