"""The budget API: reads over HTTP for ad servers, advertisers' tools and analysts (docs/api.md)."""
