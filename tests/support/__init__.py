"""What several test files need: servers that end, a proxy that cuts, peers that do not speak as they should."""
