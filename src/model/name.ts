import type { Choice } from './choice.ts'

/** A parsed semantic name. `serviceNamespace` is absent in the short form; the table settles which service is meant. */
export interface ServiceName {
  app: string
  appNamespace: string
  service: string
  serviceNamespace?: string
  choice: Choice
  /** `local`, `internal`, or a configured zone. */
  zone: string
}

export type ParsedName =
  | { kind: 'name'; name: ServiceName }
  /** In one of our zones, but not a name; `label` is the offending one, `reason` says why. */
  | { kind: 'invalid'; label: string; reason: string }
  /** Not in one of our zones. */
  | { kind: 'outside' }
