import { execFile } from 'node:child_process'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { VipRange } from '../../src/core/model/address.ts'
import type { Connection } from './connections.ts'

/** What the fast path needs from the machine. Every method rejects with the message of the program. */
export interface Kernel {
  /** One transaction: all of it, or nothing. */
  apply(rules: string): Promise<void>
  /** `nft -j list table` */
  counters(table: string): Promise<string>
  /** Every tracked connection, as text. */
  connections(): Promise<string>
  /** Forgets the UDP flows to an endpoint, so that their next datagram begins a new flow. */
  forget(connection: Connection): Promise<void>
  /** Makes the loopback address the source of connections to VIPs, as it is of connections to an instance. */
  leaveFromLoopback(range: VipRange): Promise<void>
}

const execute = promisify(execFile)

/** `dir` holds the file of a transaction, since nft cannot read the socket that is a child's stdin. */
export function systemKernel(dir: string): Kernel {
  const file = join(dir, 'fast-path.nft')
  return {
    apply: async (rules) => {
      await rm(file, { force: true }) // whatever a crash, or somebody, has left there
      await writeFile(file, rules, { mode: 0o600, flag: 'wx' })
      try {
        await run('nft', ['-f', file])
      } finally {
        await rm(file, { force: true })
      }
    },
    counters: (table) => run('nft', ['-j', 'list', 'table', 'inet', table]),
    connections: async () => {
      try {
        return await readFile('/proc/self/net/nf_conntrack', 'latin1')
      } catch {
        return run('conntrack', ['-L']) // kernels without that file
      }
    },
    forget: async ({ protocol, host, port }) => {
      const family = host.includes(':') ? 'ipv6' : 'ipv4'
      const argv = ['-D', '-f', family, '-p', protocol, '--reply-src', host, '--reply-port-src', String(port)]
      await run('conntrack', argv).catch((error: Error) => {
        if (!/\b0 flow entries/.test(error.message)) throw error
      })
    },
    leaveFromLoopback: async ({ cidr4, cidr6 }) => {
      const route = (cidr: string) => ['route', 'replace', 'local', cidr, 'dev', 'lo', 'proto', ROUTE_PROTO, 'src']
      await run('ip', [...route(cidr4), '127.0.0.1'])
      if (cidr6 !== undefined) await run('ip', ['-6', ...route(cidr6), '::1'])
    },
  }
}

/** Marks the routes of host mode (intercept/host.ts), which removes them. */
const ROUTE_PROTO = '213'

async function run(program: string, argv: readonly string[]): Promise<string> {
  const { stdout } = await execute(program, [...argv], { timeout: 10_000, maxBuffer: 256 << 20, encoding: 'utf8' })
  return stdout
}
