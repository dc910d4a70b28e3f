import { splitHostPort } from '../../core/kit/host-port.ts'
import type { ServiceSpec } from '../spec.ts'

/** Why an instance cannot move at all; `undefined` when it can. */
export function whyImmobile({ oneShot, runtime, code }: ServiceSpec): string | undefined {
  if (oneShot) return 'it is a job: it ends by itself, and is not run twice'
  if (runtime === 'external' && isOfOneMachine(code))
    return `it is external, at ${code === '' ? 'this machine' : code} of this node`
  return undefined
}

/** An address that means another machine on every node. */
function isOfOneMachine(code: string): boolean {
  const host = code === '' ? 'localhost' : splitHostPort(code)?.host
  return host === undefined || /^(?:localhost|127\..*|::1|0\.0\.0\.0)$/.test(host)
}
