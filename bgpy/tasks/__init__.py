"""Task sets that come with bgpy; each is a package of its own."""
