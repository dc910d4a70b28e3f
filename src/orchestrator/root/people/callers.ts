import type { FastifyRequest } from 'fastify'
import { MeshError } from '../../../core/errors.ts'
import { isAdminToken } from '../admin.ts'
import type { RootStore } from '../root-store.ts'
import { sessionIn } from './cookie.ts'
import type { Caller } from './may.ts'
import { checkNeed, type Need, type Params } from './need.ts'
import type { People } from './people.ts'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** What the route needs (people/need.ts). */
    needs?: Need
  }
}

const CALLERS = new WeakMap<FastifyRequest, Caller>()

/** Of a route that is not open. */
export function callerOf(request: FastifyRequest): Caller {
  const caller = CALLERS.get(request)
  if (caller === undefined) throw new MeshError('UNAUTHENTICATED', { reason: 'nobody has logged in' })
  return caller
}

/**
 * Who asks, and whether they may: before a byte of the body is read (SEC-3), of every route (SEC-33). One that does not say what it needs is refused.
 * @throws MeshError UNAUTHENTICATED, FORBIDDEN, or that there is no such thing
 */
export function admitRequest(request: FastifyRequest, people: People, store: RootStore): void {
  const caller = authenticate(request, people, store)
  CALLERS.set(request, caller)
  people.used(caller)
  if (request.is404) return
  const { needs } = request.routeOptions.config
  if (needs === undefined) throw new MeshError('FORBIDDEN', { reason: 'the route does not say who may use it' })
  checkNeed(needs, request.params as Params, caller, people)
}

/** @throws MeshError UNAUTHENTICATED */
function authenticate({ headers }: FastifyRequest, people: People, store: RootStore): Caller {
  const { authorization } = headers
  const token = authorization?.startsWith('Bearer ') ? authorization.slice(7) : sessionIn(headers)
  if (token === undefined) throw new MeshError('UNAUTHENTICATED', { reason: 'the request has no bearer token' })
  const caller = isAdminToken(token, store) ? people.admin() : people.callerOf(token)
  if (caller === undefined) throw new MeshError('UNAUTHENTICATED', { reason: 'the token is not valid at this root' })
  return caller
}
