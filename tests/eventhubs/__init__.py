"""An in-memory stand-in for Azure Event Hubs that the unmodified client talks to."""
