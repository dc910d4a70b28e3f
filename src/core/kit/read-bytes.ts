import type { Readable } from 'node:stream'

/** Reads the first bytes of a stream; what follows stays there. `undefined`: it ended before it had as many. */
export function readBytes(stream: Readable, count: number): Promise<Buffer | undefined> {
  if (count === 0) return Promise.resolve(Buffer.alloc(0)) // `read(0)` returns null, as if there were nothing yet
  return new Promise((resolve) => {
    const settle = (bytes: Buffer | undefined) => {
      stream.off('readable', readable)
      for (const event of ['end', 'close', 'error']) stream.off(event, ended)
      resolve(bytes)
    }
    const readable = () => {
      const bytes = stream.read(count) as Buffer | null // fewer bytes than that only at the end
      if (bytes !== null) settle(bytes.length === count ? bytes : undefined)
    }
    const ended = () => settle(undefined)
    stream.on('readable', readable)
    for (const event of ['end', 'close', 'error']) stream.on(event, ended)
    if (stream.destroyed || stream.readableEnded) ended()
    else readable()
  })
}
