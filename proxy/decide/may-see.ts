import type { Service } from '../../src/core/model/service.ts'
import type { TableView } from '../../src/core/table/view.ts'
import type { Caller } from '../flow/flow.ts'
import { authorise } from './authorise.ts'

/**
 * Whether a caller may know that a service exists. To everybody else its names are names that do not exist.
 *
 *   service                 seen by
 *   of no organisation      everybody, who may call it or not
 *   of an organisation      who may call it, and the services that it may call because they name it in their `allow`: they see who calls
 */
export function maySee(caller: Caller, service: Service, table: Pick<TableView, 'entry'>): boolean {
  if (service.isOwned !== true || authorise(caller, service).allowed) return true
  if (caller.kind === 'node') return false
  const app = `${service.app}.${service.appNamespace}`
  const allow = table.entry(caller.service)?.service.allow ?? []
  return allow.some((rule) => rule === service.id || rule === app)
}
