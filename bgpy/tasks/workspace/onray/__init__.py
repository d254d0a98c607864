"""
Workspaces on a Ray cluster.

Three processes have a part in one, each with a module here. The *actor* is the interpreter, in a process that Ray has placed and
started. Its *keeper* lives beside it, without code of the user: it reads what the interpreter writes, keeps what has become of
its job until the next one comes, and is where servers, one after another, connect. The *agent* is the one process of a server
that is connected to Ray, so that nothing of Ray, not even its death with its node, reaches the server; `cluster` is the server's
end of it.
"""
