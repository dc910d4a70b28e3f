import { accessSync, constants, readFileSync } from 'node:fs'

const DISABLED = '/proc/sys/net/ipv6/conf/lo/disable_ipv6'
export const NONLOCAL_BIND = '/proc/sys/net/ipv6/ip_nonlocal_bind'

/** Why host mode cannot use IPv6 on this machine; `undefined`: it can. */
export function whyNoIPv6(): string | undefined {
  const disabled = setting(DISABLED)
  if (disabled === undefined) return 'this kernel has no IPv6'
  if (disabled !== '0') return 'net.ipv6.conf.lo.disable_ipv6 is set'
  if (setting(NONLOCAL_BIND) === '1') return undefined
  try {
    accessSync(NONLOCAL_BIND, constants.W_OK)
    return undefined
  } catch {
    return 'net.ipv6.ip_nonlocal_bind is 0 and cannot be written (is /proc/sys read-only?)'
  }
}

function setting(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trim()
  } catch {
    return undefined
  }
}
