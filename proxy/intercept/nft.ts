import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { promisify } from 'node:util'

/** What the VIP listeners ask of nftables. Both methods reject with what the program said. */
export interface Nft {
  /** One transaction: all of it, or nothing. */
  apply(rules: string): Promise<void>
  /** `nft -j list table` */
  list(table: string): Promise<string>
}

export const systemNft: Nft = {
  // As an argument: nft cannot read the socket that a child's stdin is, and the texts are short.
  apply: async (rules) => void (await run([rules])),
  list: (table) => run(['-j', 'list', 'table', 'inet', table]),
}

const execute = promisify(execFile)

async function run(argv: readonly string[]): Promise<string> {
  const { stdout } = await execute('nft', [...argv], { timeout: 10_000, encoding: 'utf8' })
  return stdout
}

/** capabilities(7): CAP_NET_ADMIN is bit 12. */
const NET_ADMIN = 1n << 12n

/** Whether this process may set rules in the kernel, so that nft is not run in vain. */
export function mayUseNft(): boolean {
  try {
    const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1]
    return effective !== undefined && (BigInt(`0x${effective}`) & NET_ADMIN) !== 0n
  } catch {
    return false
  }
}
