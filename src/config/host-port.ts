import { MeshError } from '../core/errors.ts'
import { splitHostPort } from '../core/kit/host-port.ts'

/** `host:port`, `[v6]:port`. @throws MeshError CONFIG_INVALID */
export function hostPort(text: string): { host: string; port: number } {
  const { host, port } = splitHostPort(text) ?? {}
  if (host === undefined || port === undefined)
    throw new MeshError('CONFIG_INVALID', {
      address: text,
      reason: `"${text}" is not host:port`,
      remedy: 'Expected host:port, for example 0.0.0.0:7472 or [::]:7472.',
    })
  return { host, port }
}
