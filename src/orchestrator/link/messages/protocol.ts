import Type, { type Static, type TSchema } from 'typebox'

/*
 * Every message on a control link is in this folder. The lower tier dials; both sides send requests and notifications.
 *
 *     node ──── toCluster ───▶ cluster ──── toRoot ───▶ root
 *          ◀─── toNode ──────          ◀─── toCluster ─
 *    relay ─── toCluster ───▶
 *          ◀─── toRelay ─────
 *
 * A request has exactly one response, within its time limit; a notification has none. The words on the wire (link.ts) are
 * `ask`, `answer` and `tell`.
 */

/** One request: what it carries, what its response carries, and how long the response may take. */
export interface RequestShape {
  request: TSchema
  response: TSchema
  withinMs: number
}

/** What one side may send. */
export interface LinkProtocol {
  requests: Readonly<Record<string, RequestShape>>
  notifications: Readonly<Record<string, TSchema>>
}

export type RequestName<L extends LinkProtocol> = keyof L['requests'] & string
export type NotificationName<L extends LinkProtocol> = keyof L['notifications'] & string
export type RequestBody<L extends LinkProtocol, N extends RequestName<L>> = Static<L['requests'][N]['request']>
export type ResponseBody<L extends LinkProtocol, N extends RequestName<L>> = Static<L['requests'][N]['response']>
export type NotificationBody<L extends LinkProtocol, N extends NotificationName<L>> = Static<L['notifications'][N]>

export const request = <A extends TSchema, B extends TSchema>(request: A, response: B, withinMs = 5_000) => ({
  request,
  response,
  withinMs,
})
export const NOTHING = Type.Object({})
/** The most that a list of instances or entries in one message may have. */
export const BATCH = 500
/** Longer lists are sent in several messages. Smaller sends more of them; larger holds up what follows. */
export const SENT_AT_ONCE = 100
/** Of what a person wrote to explain something. */
export const MAX_REASON = 200
/** How many relays a cluster offers its nodes. */
export const MAX_RELAYS = 16
