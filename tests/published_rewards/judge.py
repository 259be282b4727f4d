"""A judge that is asked over the network, a few questions at a time."""

import asyncio


class AsyncClient:
    def __init__(self):
        self.lock = asyncio.Lock()
        self.asked = 0

    async def grade(self, text):
        async with self.lock:
            self.asked += 1
        await asyncio.sleep(0)
        return len(text) % 5 / 4


client = AsyncClient()
semaphore = asyncio.Semaphore(2)


async def judge(prompts, completions, **kwargs):
    async def one(text):
        async with semaphore:
            return await client.grade(text)

    return await asyncio.gather(*[one(c[0]["content"]) for c in completions])
