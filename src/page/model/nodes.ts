import type { ClusterRow, NodeRow, Tone } from './rows.ts'
import { spanText } from './text.ts'

export interface NodeView {
  row: NodeRow
  cluster: string
  name: string
  tone: Tone
  /** `alive`, `cordoned`, `draining`, `lost`, `away`. */
  word: string
  /** What else is to be known of it: why it is cordoned, how often its link went down. */
  notes: string[]
  /** Shares between 0 and 1 of what is taken; undefined where the node does not say. */
  memoryTaken?: number
  cpuTaken?: number
  certificate: { tone: Tone; text: string }
}

export function nodeViews(nodes: readonly NodeRow[], now: number): NodeView[] {
  return nodes.map((row) => nodeView(row, now))
}

export function nodeView(row: NodeRow, now: number): NodeView {
  const at = row.id.indexOf('/')
  const memoryTaken = taken(row.capacity?.memoryMb, row.freeMemoryMb)
  const cpuTaken = taken(row.capacity?.vcpus, row.freeVcpus)
  return {
    row,
    cluster: row.id.slice(0, at),
    name: row.id.slice(at + 1),
    ...conditionOf(row),
    notes: notesOf(row, now),
    ...(memoryTaken === undefined ? {} : { memoryTaken }),
    ...(cpuTaken === undefined ? {} : { cpuTaken }),
    certificate: certificateOf(row.certificateUntil, now),
  }
}

function taken(all: number | undefined, free: number | undefined): number | undefined {
  if (all === undefined || free === undefined || all <= 0) return undefined
  return Math.min(1, Math.max(0, 1 - free / all))
}

function conditionOf({ condition, cordon, instances, dampedMs }: NodeRow): { tone: Tone; word: string } {
  if (condition === 'lost') return { tone: 'bad', word: 'lost' }
  if (condition === 'away') return { tone: 'warn', word: 'away' }
  if (cordon?.drain !== undefined)
    return instances === 0 ? { tone: 'idle', word: 'drained' } : { tone: 'busy', word: 'draining' }
  if (cordon !== undefined) return { tone: 'idle', word: 'cordoned' }
  if (dampedMs !== undefined) return { tone: 'warn', word: 'flapping' }
  return { tone: 'good', word: 'alive' }
}

function notesOf({ cordon, asOf, linksLost, dampedMs, duplicateAt, mayStillRun = [] }: NodeRow, now: number): string[] {
  const notes: string[] = []
  if (cordon !== undefined) {
    const why = cordon.reason === undefined ? '' : `: ${cordon.reason}`
    notes.push(`takes nothing new since ${spanText(now - cordon.at)}${why}`)
  }
  if (asOf !== undefined) notes.push(`its cluster does not answer: as of ${spanText(now - asOf)} ago`)
  if (dampedMs !== undefined)
    notes.push(
      `its link went down ${linksLost ?? 0} times lately: for ${spanText(dampedMs)} it gets what no other takes`,
    )
  if (duplicateAt !== undefined)
    notes.push(`another process tried to use its identity ${spanText(now - duplicateAt)} ago`)
  if (mayStillRun.length > 0) notes.push(`may still run ${mayStillRun.join(', ')}`)
  return notes
}

const HOUR_MS = 3_600_000

/** A node's certificate is valid for a day, and renewed well before it ends: one that ends soon says that nothing renews it. */
export function certificateOf(until: number | undefined, now: number): { tone: Tone; text: string } {
  if (until === undefined) return { tone: 'idle', text: '–' }
  const ms = until - now
  if (ms <= 0) return { tone: 'bad', text: `ended ${spanText(-ms)} ago` }
  return { tone: ms < HOUR_MS ? 'bad' : ms < 6 * HOUR_MS ? 'warn' : 'good', text: `in ${spanText(ms)}` }
}

export interface ClusterView {
  row: ClusterRow
  tone: Tone
  memoryTaken?: number
  cpuTaken?: number
}

export function clusterView(row: ClusterRow): ClusterView {
  const memoryTaken = taken(row.total?.memoryMb, row.free?.memoryMb)
  const cpuTaken = taken(row.total?.vcpus, row.free?.vcpus)
  return {
    row,
    tone: row.condition === 'alive' ? 'good' : row.condition === 'lost' ? 'bad' : 'warn',
    ...(memoryTaken === undefined ? {} : { memoryTaken }),
    ...(cpuTaken === undefined ? {} : { cpuTaken }),
  }
}

/** By what was typed; those in trouble first, then by name. */
export function shownNodes(views: readonly NodeView[], typed: string): NodeView[] {
  const words = typed.toLowerCase().split(/\s+/).filter(Boolean)
  const textOf = ({ row, word, notes }: NodeView) =>
    [row.id, word, row.version, row.arch, ...row.runtimes, ...row.addresses, ...notes, JSON.stringify(row.labels)]
      .join(' ')
      .toLowerCase()
  return views
    .filter((view) => {
      if (words.length === 0) return true
      const text = textOf(view)
      return words.every((each) => text.includes(each))
    })
    .toSorted((a, b) => RANK[a.tone] - RANK[b.tone] || (a.row.id < b.row.id ? -1 : 1))
}

const RANK: Readonly<Record<Tone, number>> = { bad: 0, warn: 1, busy: 2, good: 3, idle: 3 }
