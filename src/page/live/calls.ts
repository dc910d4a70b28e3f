import type { Api, Fault } from './api.ts'

/** What can be asked of the root beside the lists, and done. */

const id = encodeURIComponent
const service = (name: string) => `/v1/services/${id(name)}`
const instance = (name: string) => `/v1/instances/${id(name)}`
/** `cluster/node` is two parts of the path. */
const node = (name: string) => `/v1/nodes/${name.split('/').map(id).join('/')}`

export interface Revision {
  number: number
  generation: number
  at: number
  rollbackTo?: number
  isAutomatic?: boolean
  isComplete?: boolean
}

export const revisionsOf = async (api: Api, name: string, signal?: AbortSignal) =>
  (await api.get<{ items: Revision[] }>(`${service(name)}/revisions`, signal)).items

export const scale = (api: Api, name: string, replicas: number) =>
  api.patch<{ replicas: number }>(service(name), { replicas })

export const rollBack = (api: Api, name: string, to: number) =>
  api.post<{ revision: number; change: 'updated' | 'unchanged' }>(`${service(name)}/rollback`, { to })

export interface Moved {
  node?: string
  epoch: number
  /** Why it had to be stopped first. */
  gap?: string
  /** What does not move with it. */
  keeps?: string
}

export const restart = (api: Api, name: string) => api.post<Moved>(`${instance(name)}/restart`)

export const migrate = (api: Api, name: string, to: string | undefined) =>
  api.post<Moved>(`${instance(name)}/migrate`, to === undefined ? {} : { to })

const because = (reason: string) => (reason === '' ? {} : { reason })

export const cordon = (api: Api, name: string, reason: string) =>
  api.post<{ changed: boolean }>(`${node(name)}/cordon`, because(reason))

export const uncordon = (api: Api, name: string) => api.post<{ changed: boolean }>(`${node(name)}/uncordon`)

export interface DrainStatus {
  isDraining: boolean
  left: { instance: string; state: 'moving' | 'waiting' | 'stays'; to?: string; why?: string }[]
  leaving: number
}

export const drain = (api: Api, name: string, { reason, force }: { reason: string; force: boolean }) =>
  api.post<DrainStatus>(`${node(name)}/drain`, { ...because(reason), ...(force ? { force } : {}) })

export const drainStatus = (api: Api, name: string, signal?: AbortSignal) =>
  api.get<DrainStatus>(`${node(name)}/drain`, signal)

export const logOf = (api: Api, name: string, signal: AbortSignal) =>
  api.text(`${instance(name)}/logs?tail=200&follow=true`, signal)

/** What every filter and score says of one candidate. */
export interface Judged {
  id: string
  refusals: Record<string, string>
  score?: number[]
}

export interface Explanation {
  strategy: string
  filters: string[]
  terms: string[]
  candidates: number
  fit: number
  judged: Judged[]
  chosen?: string
  why?: string
  at?: number
}

export interface PlacementExplanation {
  service: string
  instance?: string
  state?: string
  node?: string
  detail?: string
  root: Explanation
  clusters: ({ cluster: string } & ({ nodes: Explanation } | { unknown: string }))[]
}

/** `about`: a service, or an instance of it. */
export const explain = (api: Api, about: string, signal?: AbortSignal) =>
  api.get<PlacementExplanation>(`${about.split('.').length > 4 ? instance(about) : service(about)}/explain`, signal)

export interface Difference {
  id: string
  change: 'created' | 'updated' | 'unchanged' | 'removed'
  fields: string[]
  instances: { added: number; replaced: number; changedInPlace: number; removed: number }
  gap?: string
  places: { instance: string; place?: string; reason?: string }[]
}

interface Answer {
  apps: string[]
  warnings: Fault[]
}

const documents = (query: string) => `/v1/apps${query}`

export const dryRun = (api: Api, document: unknown, { prune }: { prune: boolean }) =>
  api.post<Answer & { services: Difference[] }>(documents(`?dryRun=true${prune ? '&prune=true' : ''}`), document)

export const apply = (api: Api, document: unknown, { prune }: { prune: boolean }) =>
  api.post<Answer & { services: { id: string; change: string; gap?: string }[] }>(
    documents(prune ? '?prune=true' : ''),
    document,
  )
