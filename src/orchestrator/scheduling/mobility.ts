import { splitHostPort } from '../../core/kit/host-port.ts'
import type { ServiceSpec } from '../spec.ts'

/** Why an instance cannot move at all; `undefined` when it can. */
export function whyImmobile({ oneShot, runtime, code }: ServiceSpec): string | undefined {
  if (oneShot) return 'it is a job: it ends by itself, and is not run twice'
  if (runtime === 'external' && isOfOneMachine(code))
    return `it is external, at ${code === '' ? 'this machine' : code} of this node`
  return undefined
}

/** What the instance has on its node, and lacks wherever it moves; `undefined`: nothing. */
export function whatStays({ runtime, storageMb, volumes = [] }: ServiceSpec): string | undefined {
  if (runtime === 'external') return undefined // the mesh does not run it
  const names = volumes.map(({ name }) => name).join(', ')
  const things = [
    ...(storageMb === 0 ? [] : [`${storageMb} MB of storage`]),
    ...(volumes.length === 0 ? [] : [`the volume${volumes.length === 1 ? '' : 's'} ${names}`]),
  ]
  return things.length === 0 ? undefined : things.join(' and ')
}

/** An address that means another machine on every node. */
function isOfOneMachine(code: string): boolean {
  const host = code === '' ? 'localhost' : splitHostPort(code)?.host
  return host === undefined || /^(?:localhost|127\..*|::1|0\.0\.0\.0)$/.test(host)
}
