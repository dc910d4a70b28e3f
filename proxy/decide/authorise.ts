import type { Service } from '../../src/core/model/service.ts'
import type { Caller } from '../flow/flow.ts'

export type Verdict = { allowed: boolean; reason: string }

/**
 * Who may call whom. Both ends ask the same function; the destination's answer is the one that counts (SEC-14).
 *
 *   caller      allowed when
 *   instance    it is of the same app, or `allow` has its `app.ns`, its `app.ns.service.ns`, or `*`
 *   node        `allow` is empty, or has `node` or `*`
 */
export function authorise(caller: Caller, service: Service): Verdict {
  const { allow } = service
  if (caller.kind === 'node') {
    if (allow.length === 0) return yes('host processes may call a service without an allow list')
    const rule = allow.find((rule) => rule === 'node' || rule === '*')
    return rule === undefined ? no(`host processes are not in the allow list of ${service.id}`) : yes(`rule ${rule}`)
  }
  const app = appOf(caller.service)
  if (app === `${service.app}.${service.appNamespace}`) return yes('same app')
  const rule = allow.find((rule) => rule === '*' || rule === app || rule === caller.service)
  return rule === undefined ? no(`${caller.service} is not in the allow list of ${service.id}`) : yes(`rule ${rule}`)
}

function appOf(service: string): string {
  const [app, namespace] = service.split('.', 2)
  return `${app}.${namespace}`
}

function yes(reason: string): Verdict {
  return { allowed: true, reason }
}

function no(reason: string): Verdict {
  return { allowed: false, reason }
}
