import type { IncomingMessage } from 'node:http'
import { Duplex } from 'node:stream'
import { Relay } from '../../../proxy/relay/server.ts'
import { readFromListener, readFromRelay } from '../../../proxy/relay/wire/messages.ts'
import { decodeAnswer, decodeQuestion, encodeAnswer, encodeQuestion } from '../../../proxy/relay/wire/observation.ts'
import { isMeshError } from '../../../src/core/errors.ts'
import { silentLog } from '../../../src/core/kit/log.ts'
import { openMetrics } from '../../../src/core/metrics.ts'
import type { FuzzTarget } from '../target.ts'

const NONCE = 'ab'.repeat(16)
const json = (message: unknown) => Buffer.from(JSON.stringify(message))

/** The label of what a reader of messages does with a text; anything but MESSAGE_INVALID is a finding. */
function labelOf(read: (text: string) => { type: string }, bytes: Buffer): string {
  try {
    return `accepted ${read(bytes.toString('utf8')).type}`
  } catch (error) {
    if (isMeshError(error, 'MESSAGE_INVALID')) return error.cause === undefined ? 'refused' : 'no JSON'
    throw error
  }
}

export const relayToListener: FuzzTarget = {
  name: 'relay-to-listener',
  seeds: [
    json({ type: 'incoming', from: 'edge/n1', nonce: NONCE }),
    json({ type: 'signal', from: 'edge/n1', seen: '203.0.113.5', body: '{"type":"punch-sync"}' }),
    json({ type: 'welcome', seen: '2001:db8::5', observer: { ports: [571, 572], cookie: NONCE }, knocks: true }),
    json({ type: 'goaway', backInMs: 250 }),
  ],
  run: (bytes) => labelOf(readFromRelay, bytes),
}

export const listenerToRelay: FuzzTarget = {
  name: 'listener-to-relay',
  seeds: [
    json({ type: 'refuse', nonce: NONCE }),
    json({ type: 'knock', to: 'edge/n2', nonce: NONCE }),
    json({ type: 'withdraw', nonce: NONCE }),
    json({ type: 'signal', to: 'edge/n2', body: '{"type":"punch-sync"}' }),
  ],
  run: (bytes) => labelOf(readFromListener, bytes),
}

export const observationQuestion: FuzzTarget = {
  name: 'observation-question',
  seeds: [0, 1].map((ask) => encodeQuestion({ ask, cookie: NONCE, token: NONCE })),
  run(bytes) {
    const question = decodeQuestion(bytes)
    if (question === undefined) return 'refused'
    const again = decodeQuestion(encodeQuestion(question))
    if (JSON.stringify(again) !== JSON.stringify(question)) throw new Error('a question does not survive encoding')
    return `accepted ${question.ask < 2 ? question.ask : 'unknown'}`
  },
}

export const observationAnswer: FuzzTarget = {
  name: 'observation-answer',
  seeds: ['203.0.113.5', '2001:db8::5', '::ffff:203.0.113.5'].map((host) =>
    encodeAnswer({ host, port: 40_000, token: NONCE, heard: true }),
  ),
  run(bytes) {
    const answer = decodeAnswer(bytes)
    if (answer === undefined) return 'refused'
    const again = decodeAnswer(encodeAnswer(answer))
    const isMapped = answer.host.startsWith('::ffff:') // it is encoded as the IPv4 address that it is
    if (!isMapped && JSON.stringify(again) !== JSON.stringify(answer))
      throw new Error('an answer does not survive encoding')
    return `accepted ${answer.host.includes(':') ? 'IPv6' : 'IPv4'} ${String(answer.heard)}`
  },
}

const relay = Relay.create({ nodeRequestsPerSecond: 1e9 }, silentLog, openMetrics('relay'))

/** The target and the headers of an upgrade, as Node's parser hands them on. */
export const relayRequest: FuzzTarget = {
  name: 'relay-request',
  seeds: [
    '/relay?listen=signals\nupgrade: websocket\nhedgerow-knocks: 1',
    '/relay?to=edge%2Fn2\nupgrade: hedgerow-bytes',
    `/relay?to=edge%2Fn2&knock=${NONCE}\nupgrade: hedgerow-bytes`,
    `/relay?take=${NONCE}\nupgrade: hedgerow-bytes`,
    '/relay?ping=\nupgrade: websocket\nsec-websocket-version: 13\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==',
  ].map((text) => Buffer.from(text)),
  run(bytes) {
    const [url = '', ...lines] = bytes.toString('latin1').split('\n')
    const headers = Object.fromEntries(
      lines.map((line) => line.split(': ', 2)).map(([name = '', value = '']) => [name, value]),
    )
    let answer = ''
    const socket = new Duplex({
      read: () => undefined,
      write: (chunk: Buffer, _encoding, done) => {
        answer += chunk.toString('latin1')
        done()
      },
    })
    const request = {
      url,
      headers,
      method: 'GET',
      socket: { remoteAddress: '203.0.113.5' },
    } as unknown as IncomingMessage
    const principal = { role: 'node', mesh: 'hedgerow-1a2b3c4d', cluster: 'edge', node: 'n1' } as const
    relay.upgrade(request, socket, Buffer.alloc(0), principal)
    socket.destroy()
    return answer === '' ? 'waits' : (answer.split('\r\n', 1)[0] ?? '')
  },
}
