import { createHash } from 'node:crypto'
import { mayUseNft, systemNft } from '../../proxy/intercept/nft.ts'
import { ProgramGuard } from '../orchestrator/worker/program-guard.ts'
import { cidrsOf } from '../core/model/address.ts'
import type { AgentContext } from './context.ts'
import type { NodeIdentity } from './node-identity.ts'

/** Rules that somebody has flushed are set again within this. */
const KEEP_MS = 15_000

/** What keeps programs of this node in the mesh, where their documents say so. */
export async function openProgramGuard(
  { life, dir, log }: AgentContext,
  { vips, loopback }: Pick<NodeIdentity, 'vips' | 'loopback'>,
  proxyPorts: () => readonly number[],
): Promise<ProgramGuard> {
  const guard = new ProgramGuard({
    name: `hedgerow_programs_${createHash('sha256').update(dir).digest('hex').slice(0, 12)}`,
    ranges: [...new Set([...cidrsOf(vips), ...cidrsOf(loopback)])],
    proxyPorts,
    apply: mayUseNft() ? (rules) => systemNft.apply(rules) : undefined,
    log: log.child({ part: 'programs' }),
  })
  await guard.open()
  life.every(KEEP_MS, () => guard.keep(), 'rules for programs')
  return guard
}
