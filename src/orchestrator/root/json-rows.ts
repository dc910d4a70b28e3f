import { Readable } from 'node:stream'
import type { FastifyReply } from 'fastify'
import { Slices } from '../../core/kit/slices.ts'

/** A long list as JSON, as it is while it is sent: a slice of the rows in each turn of the event loop. */
export function jsonRows<T>(reply: FastifyReply, items: readonly T[], rowOf: (item: T) => unknown): FastifyReply {
  return reply.type('application/json; charset=utf-8').send(Readable.from(chunks(items, rowOf), { objectMode: false }))
}

async function* chunks<T>(items: readonly T[], rowOf: (item: T) => unknown): AsyncGenerator<string> {
  const slices = new Slices()
  let text = '['
  for (const [i, item] of items.entries()) {
    text += `${i === 0 ? '' : ','}${JSON.stringify(rowOf(item))}`
    if (!slices.isOver) continue
    yield text
    text = ''
    await slices.next()
  }
  yield `${text}]`
}
