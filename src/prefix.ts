import { readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { isMeshError, MeshError } from './errors.ts'
import { RESOLVER_VIP, vipRange, vipToIPv4, type VipRange } from './model/address.ts'
import { Ops, type OpsOptions } from './ops.ts'

/** Where an agent shows its health on its own prefix; holding this address is what claims the prefix. */
const OPS_PORT = 7473

export interface ClaimedPrefix {
  loopback: VipRange
  ops: Ops
}

/**
 * Takes the first free loopback prefix, so that several agents on one machine keep apart by themselves: the one it had
 * last time, else 127.16.0.0/12, 127.32.0.0/12, … Programs configured with its resolver still find it after a restart.
 * @throws MeshError LISTEN_FAILED when the wanted one, or every one, is taken.
 */
export async function claimPrefix(
  wanted: string,
  dir: string,
  ops: Pick<OpsOptions, 'metrics' | 'ready'>,
): Promise<ClaimedPrefix> {
  const remembered = join(dir, 'prefix')
  const candidates = wanted === 'auto' ? [...lastTime(remembered), ...LOOPBACK_PREFIXES] : [wanted]
  for (const cidr of candidates) {
    const loopback = vipRange(cidr)
    try {
      const claimed = await Ops.start({ ...ops, host: vipToIPv4(loopback, RESOLVER_VIP), port: OPS_PORT })
      if (wanted === 'auto') await writeFile(remembered, cidr)
      return { loopback, ops: claimed }
    } catch (error) {
      if (!isMeshError(error, 'LISTEN_FAILED') || wanted !== 'auto') throw error
    }
  }
  throw new MeshError('LISTEN_FAILED', {
    address: `127.16.0.0/12 … 127.240.0.0/12, port ${OPS_PORT}`,
    reason: 'each belongs to another agent on this machine',
  })
}

const LOOPBACK_PREFIXES = Array.from({ length: 15 }, (_, block) => `127.${16 * (block + 1)}.0.0/12`)

function lastTime(path: string): string[] {
  try {
    const cidr = readFileSync(path, 'utf8').trim()
    return LOOPBACK_PREFIXES.includes(cidr) ? [cidr] : []
  } catch {
    return []
  }
}
