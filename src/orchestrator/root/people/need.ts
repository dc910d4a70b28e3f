import { MeshError } from '../../../core/errors.ts'
import { may, type Caller, type Thing } from './may.ts'
import type { People } from './people.ts'
import type { Permission } from './roles.ts'

/**
 * What a call needs, as its route declares it: a permission, and of what. A route that declares nothing is refused to everybody
 * (SEC-33).
 *
 *     listed   nothing beforehand: its answer has only rows that the caller may see (view.ts)
 *     given    what the body names: the call asks the view itself
 *     self     whoever is logged in, about itself
 *     others   the thing that the path names
 */
export type Need = `${Permission} ${Named | 'mesh' | 'listed' | 'given'}` | 'self' | 'open'
type Named = 'app' | 'service' | 'instance' | 'secret' | 'volume' | 'node' | 'relay' | 'cluster' | 'organisation'

/** Whose something is. */
export type Owners = Pick<People, 'app' | 'cluster'>

export type Params = Readonly<Record<string, string | undefined>>

/** @throws MeshError FORBIDDEN, or that there is no such thing when the caller may not even see it */
export function checkNeed(need: Need, params: Params, who: Caller, people: Owners): void {
  if (need === 'open' || need === 'self') return
  const [permission, of] = need.split(' ') as [Permission, string]
  if (of === 'listed' || of === 'given') return
  if (of === 'mesh') {
    if (!may(who, permission, { kind: 'mesh' })) throw refused(permission)
    return
  }
  const { thing, unknown } = thingOf(of as Named, params, people)
  if (may(who, permission, thing)) return
  throw may(who, 'see', thing) ? refused(permission) : unknown()
}

export function refused(permission: Permission): MeshError {
  return new MeshError('FORBIDDEN', {
    permission,
    reason: `your roles do not include the permission to ${WORDS[permission]}`,
    remedy: 'Ask an administrator of your organisation. `hedgerow whoami` says which roles you have.',
  })
}

const WORDS: Readonly<Record<Permission, string>> = {
  see: 'see this',
  change: 'change this',
  enter: 'run commands in instances',
  secrets: 'use secrets',
  operate: 'operate this cluster',
  people: 'decide about users',
  audit: 'read the audit log',
  mesh: 'decide about the whole mesh',
}

function thingOf(of: Named, params: Params, people: Owners): { thing: Thing; unknown: () => MeshError } {
  const name = params['name'] ?? params['id'] ?? ''
  const short = name.slice(0, 400)
  switch (of) {
    case 'app':
      return { thing: people.app(name), unknown: () => new MeshError('APP_UNKNOWN', { app: short }) }
    case 'service':
      return { thing: people.app(name), unknown: () => new MeshError('SERVICE_UNKNOWN', { service: short }) }
    case 'instance':
      return { thing: people.app(name), unknown: () => new MeshError('INSTANCE_UNKNOWN', { instance: short }) }
    case 'secret':
      return { thing: people.app(name), unknown: () => new MeshError('SECRET_UNKNOWN', { secret: short }) }
    case 'volume':
      return { thing: people.app(name), unknown: () => new MeshError('VOLUME_UNKNOWN', { volume: short }) }
    case 'organisation':
      return {
        thing: { kind: 'organisation', organisation: name },
        unknown: () => new MeshError('ORGANISATION_UNKNOWN', { organisation: short }),
      }
    case 'cluster':
    case 'node':
    case 'relay': {
      const cluster = params['cluster'] ?? name
      const id = `${cluster}/${params[of] ?? ''}`.slice(0, 300)
      return {
        thing: people.cluster(cluster),
        unknown: () =>
          of === 'cluster'
            ? new MeshError('CLUSTER_UNKNOWN', { cluster: cluster.slice(0, 300) })
            : of === 'node'
              ? new MeshError('NODE_UNKNOWN', { node: id })
              : new MeshError('RELAY_UNKNOWN', { relay: id }),
      }
    }
    default:
      return of satisfies never
  }
}
