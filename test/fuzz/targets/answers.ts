import { PassThrough } from 'node:stream'
import { answerIn as agentAnswerIn } from '../../../src/agent/local-api.ts'
import { valuesOf } from '../../../src/agent/hand-over.ts'
import { answerIn as rootAnswerIn } from '../../../src/client/root-client.ts'
import { explain, isMeshError } from '../../../src/core/errors.ts'
import { issuedIn } from '../../../src/core/identity/post.ts'
import { hasTwoHosts, pathOf, queryOf } from '../../../src/core/kit/request-target.ts'
import { readNonce } from '../../../proxy/paths/expected-connections.ts'
import { readGreeting } from '../../../proxy/tunnel/peers/earlier-processes.ts'
import { encodeHello } from '../../../proxy/tunnel/wire/hello.ts'
import type { FuzzTarget } from '../target.ts'

/* What another process answers: an agent to a command, a root to its client, an issuer to who joins, a predecessor to its successor. */

const STATUS = [200, 400, 404, 500, 502]

/** The first byte chooses the status; the rest is the body. */
function answered(
  name: string,
  read: (text: string, status: number) => unknown,
  bodies: readonly object[],
): FuzzTarget {
  return {
    name,
    seeds: bodies.flatMap((body) =>
      STATUS.map((_, i) => Buffer.concat([Buffer.of(i), Buffer.from(JSON.stringify(body))])),
    ),
    run(bytes) {
      const status = STATUS[(bytes[0] ?? 0) % STATUS.length] as number
      try {
        return `read ${typeof read(bytes.subarray(1).toString('utf8'), status)}`
      } catch (error) {
        if (!isMeshError(error)) throw error
        if (explain(error) === '') throw new Error('a refusal without words', { cause: error })
        return `${status} ${error.code}`
      }
    },
  }
}

const REFUSED = { error: 'NAME_INVALID', details: { name: 'x', label: 'y', reason: 'it is empty' } }

export const agentAnswer = answered('answer-of-agent', agentAnswerIn, [{ standing: 'serving' }, REFUSED])
export const rootAnswer = answered('answer-of-root', rootAnswerIn, [
  { apps: [] },
  { error: 'SLA_INVALID', faults: [{ path: 'a', problem: 'b' }], warnings: [] },
  REFUSED,
])
export const issuerAnswer = answered('answer-of-issuer', issuedIn, [
  { chain: '-----BEGIN CERTIFICATE-----' },
  { error: 'TOKEN_REFUSED', details: { reason: 'it was used' } },
])

export const handOverLines: FuzzTarget = {
  name: 'hand-over-lines',
  seeds: [
    '{"step":"control","pid":12}\n{"step":"release"}\n{"step":"yield"}\n',
    '{"done":"release"}\n',
    'null\n[]\n',
  ].map((text) => Buffer.from(text)),
  async run(bytes) {
    const socket = new PassThrough()
    for (let at = 0; at < bytes.length; at += 11) socket.write(bytes.subarray(at, at + 11))
    socket.end()
    let values = 0
    for await (const _ of valuesOf(socket)) values += 1
    return `${Math.min(values, 4)} values${socket.readableEnded ? '' : ', then no JSON'}`
  },
}

const HELLO = encodeHello({
  version: 1,
  carrier: 3,
  windowBytes: 256 * 1024,
  features: 7,
  incarnation: 'ab'.repeat(8),
  session: 'cd'.repeat(16),
})

/** What arrives first on a connection between nodes, when nothing is known of the other end but its certificate. */
export const greeting: FuzzTarget = {
  name: 'greeting',
  seeds: [HELLO, Buffer.concat([HELLO, HELLO]), HELLO.subarray(0, 20)],
  async run(bytes) {
    const stream = new PassThrough()
    stream.end(bytes)
    try {
      const { frame, hello } = await readGreeting(stream)
      if (!bytes.subarray(0, frame.length).equals(frame)) throw new Error('another frame than was sent')
      return hello === undefined ? 'no HELLO' : 'HELLO'
    } catch (error) {
      if (isMeshError(error, 'SESSION_CLOSED')) return 'too short'
      throw error
    }
  },
}

export const nonce: FuzzTarget = {
  name: 'nonce',
  seeds: [Buffer.alloc(16, 7), Buffer.alloc(20)],
  async run(bytes) {
    const stream = new PassThrough()
    stream.end(bytes)
    try {
      const text = await readNonce(stream)
      if (text !== bytes.subarray(0, 16).toString('hex')) throw new Error('another nonce than was sent')
      return 'read'
    } catch (error) {
      if (isMeshError(error, 'PEER_REFUSED')) return 'too short'
      throw error
    }
  },
}

/** The target of a request to the local API, as Node's parser hands it on, and the names and values of its headers. */
export const requestTarget: FuzzTarget = {
  name: 'request-target',
  seeds: ['/resolve?name=a.b&x=%zz', '//', '*', '/carrier?peer=edge%2Fn1&path=direct\nHost\nx\nhost\ny'].map((text) =>
    Buffer.from(text),
  ),
  run(bytes) {
    const [target = '', ...headers] = bytes.toString('latin1').split('\n')
    if (pathOf(target).includes('?')) throw new Error('a path with its query')
    const query = [...queryOf(target)]
    return `${Math.min(query.length, 4)} values${hasTwoHosts(headers) ? ', two hosts' : ''}`
  },
}
