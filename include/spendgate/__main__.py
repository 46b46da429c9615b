"""`python -m spendgate`: what the launcher runs."""

import importlib

from spendgate.collector import collect_seldom

collect_seldom()
importlib.import_module("spendgate.cli").main()
