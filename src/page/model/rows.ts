import type { components } from '../../client/api-types.ts'

/** What the root’s API says of each thing. */
type Schemas = components['schemas']
export type Usage = Schemas['Usage']
export type ServiceRow = Schemas['Service']
export type InstanceRow = Schemas['Instance']
export type NodeRow = Schemas['Node']
export type ClusterRow = Schemas['Cluster']
export type LinkRow = Schemas['Link']
export type EventRow = Schemas['Event']

/** How a thing is, as its colour says; the words say the same. */
export type Tone = 'good' | 'busy' | 'warn' | 'bad' | 'idle'
