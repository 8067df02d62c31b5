"""A TCP proxy on loopback that can be slow, or take connections and never answer."""

import asyncio
import threading


class SlowProxy:
    """
    Forwards to *host*:*port*.

    delay_s: what every chunk waits, in each direction. silent: nothing is forwarded any more; connections stay open.
    """

    def __init__(self, host: str, port: int):
        self.target = host, port
        self.delay_s = 0.0
        self.silent = False
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._pipes: set[asyncio.Task] = set()

    def start(self):
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def stop(self):
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    async def _close(self):
        self._server.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _serve(self, reader, writer):
        self._pipes.add(task := asyncio.current_task())
        task.add_done_callback(self._pipes.discard)
        try:
            there_reader, there_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(self._pipe(reader, there_writer), self._pipe(there_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            there_writer.close()

    async def _pipe(self, reader, writer):
        while chunk := await reader.read(65536):
            while self.silent:  # noqa: ASYNC110 -- set from another thread, where an Event would not do
                await asyncio.sleep(0.05)
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()
