"""`python -m spendgate`: what the launcher runs."""

from spendgate.cli import main

main()
