import type { ServiceId } from './ids.ts'
import type { ChoiceKey } from './choice.ts'

export interface ServicePort {
  port: number
  protocol: 'tcp' | 'udp'
  /** For SRV: `_<name>._tcp`. */
  name?: string
}

/** 20 bits; each interception mode maps them into its own prefix. */
export type VipIndex = number

/**
 * Who may call, beside the services of the same app: `app.ns` (a whole app), `app.ns.service.ns` (one service), `node` (processes
 * of mesh nodes that belong to no instance; allowed unless there is a list without it), or `*`.
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
  /** It belongs to an organisation: who has nothing to do with it does not see it (proxy/decide/may-see.ts); absent: it belongs to none. */
  isOwned?: true
  /** Which paths its flows may take, beside the rule of each node (path-rule.ts); any when absent. */
  paths?: string
  /** The VIP of each choice: `any.<policy>`, and `<ordinal>.<policy>` of each instance that exists. */
  vips: Readonly<Partial<Record<ChoiceKey, VipIndex>>>
  /** Choices whose VIP a document requests by number, so that people may call it without asking for the name; none when absent. */
  requested?: readonly ChoiceKey[]
}
