import type { Problem } from './interceptor.ts'
import { programWith } from './proc-processes.ts'
import { wildcardInode } from './proc-sockets.ts'
import type { VipPort } from './vip-ports.ts'

/** Why a VIP cannot be listened at, with the remedy. */
export function problemOf(error: NodeJS.ErrnoException, { address, port, protocol }: VipPort): Problem {
  const code = error.code === 'EADDRINUSE' ? 'PORT_TAKEN' : 'INTERCEPT_FAILED'
  return { code, address, port, protocol, ...explained(error, port) }
}

/**
 * The program that gets what is sent to a VIP without a listener: one that listens on this port of every address of the
 * machine. `undefined`: there is none, and callers are refused.
 */
export async function portHolder({ port, protocol }: Pick<Problem, 'port' | 'protocol'>): Promise<string | undefined> {
  const inode = await wildcardInode(port, protocol)
  if (inode === undefined) return undefined
  return (await programWith(inode)) ?? 'a program of another user'
}

/** Those that failed since their port was taken, which it is no more. The kernel is asked, once for each port. */
export async function withFreePort<L extends { at: VipPort; problem: Problem | undefined }>(
  failed: readonly L[],
): Promise<L[]> {
  const blocked = failed.filter(({ problem }) => problem?.code === 'PORT_TAKEN')
  const ports = Map.groupBy(blocked, ({ at: { port, protocol } }) => `${port}/${protocol}`)
  const each = Array.from(ports.values(), async (those) => {
    const { port, protocol } = (those[0] as L).at
    return (await wildcardInode(port, protocol)) === undefined ? those : []
  })
  return (await Promise.all(each)).flat()
}

function explained(error: NodeJS.ErrnoException, port: number): { reason: string; remedy: string } {
  switch (error.code ?? '') {
    case 'EADDRINUSE':
      return {
        reason: `another program listens on port ${port} of every address`,
        remedy:
          `let it listen on 127.0.0.1:${port}, give the agent CAP_NET_ADMIN and nftables, ` +
          'or call the service through the SOCKS or HTTP proxy',
      }
    case 'EACCES':
    case 'EPERM':
      return {
        reason: 'ports below 1024 need a privilege',
        remedy:
          'give node CAP_NET_BIND_SERVICE, lower net.ipv4.ip_unprivileged_port_start, or use the SOCKS or HTTP proxy',
      }
    case 'EADDRNOTAVAIL':
      return { reason: 'the address is not local', remedy: 'use a range inside 127.0.0.0/8, or host mode' }
    case 'EMFILE':
    case 'ENFILE':
      return { reason: 'no file descriptors are left', remedy: 'raise the limit of open files (ulimit -n)' }
    default:
      return { reason: error.message, remedy: 'see the reason' }
  }
}
