import { Readable } from 'node:stream'
import type { InstanceId } from '../../core/model/ids.ts'
import type { ClusterLink } from './clusters.ts'

export interface LogQuery {
  instance: InstanceId
  tail: number
  follow: boolean
}

/** What an instance wrote, pulled through its cluster as fast as the reader reads. */
export async function openLogs(link: ClusterLink, query: LogQuery): Promise<Readable> {
  const { stream } = await link.request('logs.open', query) // before the first byte, so that a refusal has its own status
  return Readable.from(pull(link, stream), { objectMode: false })
}

async function* pull(link: ClusterLink, stream: string): AsyncIterable<Buffer> {
  try {
    for (;;) {
      const { text, done } = await link.request('logs.next', { stream })
      if (text !== '') yield Buffer.from(text)
      if (done) return
    }
  } finally {
    link.notify('logs.close', { stream })
  }
}
