"""
What the commands say of Ray clusters.
"""

from __future__ import annotations

import time

import click

from bgpy.cli.showing import duration, print_json, print_table


def show_actors(address: str, prune: bool, as_json: bool) -> None:
    """List the workspaces of a cluster, or end those that have no server and say which."""
    from bgpy.tasks.workspace.backends.spawner import Spawner
    from bgpy.tasks.workspace.onray import listing
    from bgpy.tasks.workspace.onray.cluster import Cluster

    spawner = Spawner()
    cluster = Cluster(address, spawner)
    try:
        found = listing.list_actors(cluster)
        if prune:
            found = listing.prune(cluster, found)
    finally:
        cluster.close()
        spawner.close()
    if as_json:
        print_json([each._asdict() for each in found])
    elif not found:
        click.echo(f"No workspace on the cluster {address} is without a server." if prune else f"There are none on {address}.")
    elif prune:
        for each in found:
            click.echo(f"Removed {each.workspace}, process {each.pid} on the node {each.node}.")
    else:
        rows = [
            (
                each.workspace or each.actor,
                each.server,
                "yes" if each.running else "no",
                "-" if each.created is None else duration(time.time() - each.created),
                "-" if each.pid is None else str(each.pid),
                each.node or "-",
            )
            for each in found
        ]
        print_table(("NAME", "SERVER", "BUSY", "AGE", "PID", "NODE"), rows)
