"""One run of the intake in a process of its own, so that a test can kill it: settings come by the environment."""

from __future__ import annotations

import sys

from spendgate.local import services
from spendgate.pipeline import Pipeline
from spendgate.settings import load_settings
from spendgate.warehouse.engine import Warehouse


def main() -> int:
    settings = load_settings()
    warehouse = Warehouse(services.warehouse_url(settings), lock_timeout=60)
    pipeline = Pipeline(settings, warehouse, services.endpoints(settings))
    sys.stdout.write("reading\n")
    sys.stdout.flush()
    for part in pipeline.list_slices():
        pipeline.read_slice(part)
    return 0
