"""Streams that events come from: one small protocol, bounded reads."""
