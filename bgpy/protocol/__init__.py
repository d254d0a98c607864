"""Bytes to messages and back: no sockets, no threads, no clock."""
