import { egressRules } from '../../../core/model/egress.ts'
import { readFileSync } from 'node:fs'
import type { Controls } from '../../../core/kit/cgroup-controls.ts'
import { controlsAt } from '../../../core/kit/cgroup.ts'
import type { GuardedContainer } from './container-rules.ts'
import { isStatus, type Engine } from './engine.ts'
import { LABELS } from './labels.ts'

/* What the engine says of the containers that have the label of this agent. */

export interface ListedContainer {
  Id: string
  Labels?: Record<string, string>
  NetworkSettings?: {
    Networks?: Record<string, { IPAddress?: string; GlobalIPv6Address?: string; MacAddress?: string }>
  }
}

export interface InspectedContainer {
  Id?: string
  State?: { Running?: boolean; Pid?: number }
  Config?: { Labels?: Record<string, string>; Healthcheck?: { Test?: string[] } }
}

/** `ended`: also those that do not run any more. @throws as `Engine.ask` */
export async function ownContainers(engine: Engine, agent: string, ended?: 'ended'): Promise<ListedContainer[]> {
  const filters = JSON.stringify({ label: [`${LABELS.agent}=${agent}`] })
  const query = { ...(ended === undefined ? {} : { all: 1 }), filters }
  return (await engine.ask({ method: 'GET', path: '/containers/json', query })) as ListedContainer[]
}

/** With what rules name them by; none that is not on the network. */
export function guardedOf({ Labels = {}, NetworkSettings }: ListedContainer, network: string): GuardedContainer[] {
  const found = NetworkSettings?.Networks?.[network] ?? {}
  const { IPAddress: ipv4 = '', GlobalIPv6Address: ipv6 = '', MacAddress: mac = '' } = found
  const isClosed = Labels[LABELS.egress] === 'none'
  const egressTo = egressRules(Labels[LABELS.egressTo]?.split(' '))
  return ipv4 === '' || mac === '' ? [] : [{ mac, ipv4, ...(ipv6 === '' ? {} : { ipv6 }), isClosed, egressTo }]
}

/** `undefined`: it is not there. @throws as `Engine.ask` */
export async function inspected(engine: Engine, container: string): Promise<InspectedContainer | undefined> {
  try {
    return (await engine.ask({ method: 'GET', path: `/containers/${container}/json` })) as InspectedContainer
  } catch (error) {
    if (isStatus(error, 404)) return undefined
    throw error
  }
}

/** With its anonymous volumes. Nothing happens when it is not there. @throws as `Engine.ask` */
export async function removeContainer(engine: Engine, container: string): Promise<void> {
  const query = { force: 1, v: 1 }
  await engine.ask({ method: 'DELETE', path: `/containers/${container}`, query }).catch((error: unknown) => {
    if (!isStatus(error, 404, 409)) throw error
  })
}

/** Its control groups. None where the engine runs on another machine: its process ids are not those of this one. */
export function controlsOf(pid: number, id: string): Controls {
  if (id === '') return {}
  try {
    return controlsAt(id, readFileSync(`/proc/${pid}/cgroup`, 'latin1'))
  } catch {
    return {}
  }
}
