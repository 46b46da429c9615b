"""SpendGate: the budget gate of ad serving."""
