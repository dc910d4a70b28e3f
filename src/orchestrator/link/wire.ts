import Type, { type Static, type TSchema } from 'typebox'
import { MOST_MS } from './pace.ts'
import { checkerOf, type Checker } from '../../core/kit/checker.ts'

/*
 * The messages of a control link, JSON in WebSocket text messages:
 *
 *   {"ask": 7, "type": "interest.ask", "body": {…}}                     request; numbered by the sender
 *   {"answer": 7, "body": {…}}                                          its response
 *   {"answer": 7, "error": {"code": "NODE_UNKNOWN", "details": {…}}}    its response: refused
 *   {"tell": "reports", "body": {…}}                                    notification; has no response
 *   {"beat": 1, "next": 1000}                                           heartbeat, and when the next one comes (pace.ts)
 *   {"goaway": 1500}                                                    I am closing; reconnect after this many milliseconds
 *   {"fault": "…"}                                                      your last message was malformed
 */
const Id = Type.Integer({ minimum: 1, maximum: Number.MAX_SAFE_INTEGER })
const Word = Type.String({ maxLength: 64 })
const Body = Type.Object({})
const Frame = Type.Union([
  Type.Object({ beat: Type.Literal(1), next: Type.Optional(Type.Integer({ minimum: 100, maximum: MOST_MS })) }),
  Type.Object({ answer: Id, body: Body }),
  Type.Object({
    answer: Id,
    error: Type.Object({
      code: Word,
      details: Type.Optional(Type.Record(Type.String({ maxLength: 64 }), Type.Unknown())),
    }),
  }),
  Type.Object({ ask: Id, type: Word, body: Body }),
  Type.Object({ tell: Word, body: Body }),
  Type.Object({ goaway: Type.Integer({ minimum: 0, maximum: 600_000 }) }),
  Type.Object({ fault: Type.String({ maxLength: 1_000 }) }),
])
const frame = checkerOf(Frame)

export function isFrame(message: unknown): message is Static<typeof Frame> {
  return frame.Check(message)
}

const validators = new WeakMap<TSchema, Checker>()

/** Of the schema; one for each. */
export function validator(schema: TSchema): Checker {
  const known = validators.get(schema)
  if (known !== undefined) return known
  const made = checkerOf(schema)
  validators.set(schema, made)
  return made
}

/** The first fault of a body that its schema refuses. */
export function problemOf(schema: TSchema, body: unknown): string {
  const [fault] = validator(schema).Errors(body)
  return fault === undefined ? 'malformed' : `${fault.instancePath || '/'} ${fault.message}`.slice(0, 500)
}

/** `undefined` when the text is not JSON. */
export function readJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
