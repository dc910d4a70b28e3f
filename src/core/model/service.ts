import type { ServiceId } from './ids.ts'
import type { ChoiceKey } from './choice.ts'

export interface ServicePort {
  port: number
  protocol: 'tcp' | 'udp'
  /** For SRV: `_<name>._tcp`. */
  name?: string
}

/** 20 bit: each interception mode maps it into its own prefix. */
export type VipIndex = number

/**
 * Who may call, beside the services of the same app: `app.ns` (a whole app), `app.ns.service.ns` (one service),
 * `node` (host processes of mesh nodes, which are no instance; allowed unless the list is given without it), `*`.
 */
export type AllowRule = string

/** What the table knows of one service. */
export interface Service {
  id: ServiceId
  app: string
  appNamespace: string
  name: string
  namespace: string
  ports: readonly ServicePort[]
  allow: readonly AllowRule[]
  /** Which ways its flows may take, beside what each node allows (path-rule.ts); any when absent. */
  paths?: string
  /** For every choice the root handed out: `any.<policy>` and `<ordinal>.<policy>` of each instance that exists. */
  vips: Readonly<Partial<Record<ChoiceKey, VipIndex>>>
}
