import { once } from 'node:events'
import type { Readable } from 'node:stream'

/** What comes first. Rejects when the stream closes without a word, as at a limit or when its program ends: `once` would wait for ever. */
export async function heard(stream: Readable): Promise<Buffer> {
  const over = new AbortController()
  const { signal } = over
  const isOver = once(stream, 'close', { signal }).then(() =>
    Promise.reject(new Error('closed before it said anything')),
  )
  try {
    const [first] = (await Promise.race([once(stream, 'data', { signal }), isOver])) as [Buffer]
    return first
  } finally {
    over.abort()
  }
}
