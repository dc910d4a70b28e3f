import { join } from 'node:path'
import { MeshError } from '../core/errors.ts'
import type { Uplink } from '../orchestrator/worker/uplink.ts'
import { Feed } from '../core/table/feed.ts'
import type { FeedSource } from '../core/table/feed-source.ts'
import { Interests } from '../core/table/interests.ts'
import { SavedTable } from '../core/table/saved.ts'
import { Table } from '../core/table/table.ts'
import type { AgentContext } from './context.ts'

/** What this node knows: the table, its copy on disk, and the questions about what is not in it. */
export interface TableSync {
  readonly table: Table
  readonly saved: SavedTable
  readonly interests: Interests
  /** Called when the link exists: from then on the cluster can be asked, and changes are followed. */
  readonly follow: (uplink: Uplink) => Promise<void>
}

export async function openTableSync({ life, dir, clock, log, metrics }: AgentContext): Promise<TableSync> {
  const table = new Table({ clock })
  const saved = life.use(await SavedTable.start({ table, path: join(dir, 'table.json'), clock }, log))
  let link: Uplink | undefined
  const linked = (): Uplink => {
    if (link === undefined) throw new MeshError('LINK_CLOSED', { reason: 'the agent is starting' })
    return link
  }
  const source: FeedSource = {
    ask: async (key, signal) => linked().ask(key, signal),
    askVip: async (vip, signal) => linked().askVip(vip, signal),
    forget: (keys) => link?.forget(keys),
    messages: (point, signal) => linked().messages(point, signal),
  }
  const interests = life.use(await Interests.start({ table, source, clock }, log))
  return {
    table,
    saved,
    interests,
    follow: async (uplink) => {
      link = uplink
      life.use(await Feed.start({ table, interests, source, clock }, log, metrics))
    },
  }
}
