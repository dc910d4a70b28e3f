import type { components } from '../../client/api-types.ts'
import type { Api } from './api.ts'

/** What can be asked of the root beside the lists, and done. */

const id = encodeURIComponent
const service = (name: string) => `/v1/services/${id(name)}`
const instance = (name: string) => `/v1/instances/${id(name)}`
/** `cluster/node` is two parts of the path. */
const node = (name: string) => `/v1/nodes/${name.split('/').map(id).join('/')}`

type Schemas = components['schemas']
export type Revision = Schemas['Revision']
export type Moved = Schemas['Moved']
export type DrainStatus = Schemas['DrainStatus']
/** What one tier says of every candidate. */
export type TierExplanation = Schemas['TierExplanation']
export type Explanation = Schemas['Explanation']
export type Applied = Schemas['Applied']
/** Of a dry run. */
export type Difference = Applied['services'][number] &
  Required<Pick<Applied['services'][number], 'fields' | 'instances' | 'places'>>

export const revisionsOf = async (api: Api, name: string, signal?: AbortSignal) =>
  (await api.get<{ items: Revision[] }>(`${service(name)}/revisions`, signal)).items

export const scale = (api: Api, name: string, replicas: number) =>
  api.patch<{ replicas: number }>(service(name), { replicas })

export const rollBack = (api: Api, name: string, to: number) =>
  api.post<{ revision: number; change: 'updated' | 'unchanged' }>(`${service(name)}/rollback`, { to })

export const restart = (api: Api, name: string) => api.post<Moved>(`${instance(name)}/restart`)

export const migrate = (api: Api, name: string, to: string | undefined) =>
  api.post<Moved>(`${instance(name)}/migrate`, to === undefined ? {} : { to })

const because = (reason: string) => (reason === '' ? {} : { reason })

export const cordon = (api: Api, name: string, reason: string) =>
  api.post<{ changed: boolean }>(`${node(name)}/cordon`, because(reason))

export const uncordon = (api: Api, name: string) => api.post<{ changed: boolean }>(`${node(name)}/uncordon`)

export const drain = (api: Api, name: string, { reason, force }: { reason: string; force: boolean }) =>
  api.post<DrainStatus>(`${node(name)}/drain`, { ...because(reason), ...(force ? { force } : {}) })

export const drainStatus = (api: Api, name: string, signal?: AbortSignal) =>
  api.get<DrainStatus>(`${node(name)}/drain`, signal)

export const logOf = (api: Api, name: string, signal: AbortSignal) =>
  api.text(`${instance(name)}/logs?tail=200&follow=true`, signal)

/** `about`: a service, or an instance of it. */
export const explain = (api: Api, about: string, signal?: AbortSignal) =>
  api.get<Explanation>(`${about.split('.').length > 4 ? instance(about) : service(about)}/explain`, signal)

const documents = (query: string) => `/v1/apps${query}`

const UNTOUCHED = { fields: [], places: [], instances: { added: 0, replaced: 0, changedInPlace: 0, removed: 0 } }

const compared = (answer: Applied) => ({
  ...answer,
  services: answer.services.map((one): Difference => ({ ...UNTOUCHED, ...one })),
})

const connection = (from: string, to: string) => `${service(from)}/connections/${id(to)}`

export interface ConnectionWish {
  latencyMs?: number
  allow?: boolean
}

/** What it would change. */
export const tryConnection = async (api: Api, [from, to]: readonly [string, string], wish: ConnectionWish) =>
  compared(await api.put<Applied>(`${connection(from, to)}?dryRun=true`, wish))

export const connect = (api: Api, [from, to]: readonly [string, string], wish: ConnectionWish) =>
  api.put<Applied>(connection(from, to), wish)

export const disconnect = (api: Api, [from, to]: readonly [string, string]) => api.delete<Applied>(connection(from, to))

export const dryRun = async (api: Api, document: unknown, { prune }: { prune: boolean }) => {
  return compared(await api.post<Applied>(documents(`?dryRun=true${prune ? '&prune=true' : ''}`), document))
}

export const apply = (api: Api, document: unknown, { prune }: { prune: boolean }) =>
  api.post<Applied>(documents(prune ? '?prune=true' : ''), document)
