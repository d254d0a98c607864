"""The asyncio client: the same verbs, with await."""

import asyncio

from bgpy import AsyncClient, Server


async def main(port):
    async with AsyncClient("127.0.0.1", port) as client:
        changes = [10, 20, 30, -100]
        await asyncio.gather(*(client.execute({"command": "increase", "value_change": change}) for change in changes))
        print(await client.terminate(await_response=True))


server = Server(tasks="bgpy.example.tasks")
server.run_background()
asyncio.run(main(server.port))
