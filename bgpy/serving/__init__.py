"""What a running server is made of: the turn lock, the requests, the connections, the end."""
