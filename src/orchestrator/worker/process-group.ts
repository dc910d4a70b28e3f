import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import type { Cgroup } from '../../core/kit/cgroup.ts'

/*
 * An instance is a session of its own (setsid): its leader's pid is also the id of its process group and session.
 * A pid is reused after its process ended, so a process is known by pid *and* start time, and a run also by a mark in
 * its environment (HEDGEROW_RUN), which even a daemon that left the session carries. A program that means harm leaves the session and
 * clears its environment; its control group and its user, where the run has its own (separation.ts), it cannot leave.
 *
 *     /proc/<pid>/stat    1234 (any text) S ppid pgrp session … starttime(22nd)      proc_pid_stat(5)
 */

export interface ProcessStat {
  pid: number
  state: string
  pgrp: number
  session: number
  /** Clock ticks since boot. */
  startTime: number
}

export function statOf(pid: number): ProcessStat | undefined {
  try {
    return parseStat(readFileSync(`/proc/${pid}/stat`, 'latin1'))
  } catch {
    return undefined // ended, or there is no /proc here
  }
}

/** The name in brackets may itself hold brackets and blanks: the last bracket ends it. */
export function parseStat(text: string): ProcessStat | undefined {
  const close = text.lastIndexOf(')')
  const rest = text.slice(close + 2).split(' ')
  const state = rest[0]
  const [pid, pgrp, session, startTime] = [
    Number.parseInt(text, 10),
    Number(rest[2]),
    Number(rest[3]),
    Number(rest[19]),
  ]
  if (close < 0 || state === undefined || ![pid, pgrp, session, startTime].every(Number.isInteger)) return undefined
  return { pid, state, pgrp, session, startTime }
}

/** Changes with every start of the machine: pids and start times mean nothing across it. */
export function bootId(): string {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim()
  } catch {
    return ''
  }
}

export function isAlive(pid: number, startTime: number): boolean {
  const stat = statOf(pid)
  return stat !== undefined && stat.startTime === startTime && stat.state !== 'Z'
}

/** Whether some process has the number: it may be another one by now, or have ended and not been waited for. */
export function isInUse(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** A process and all that descend from it, as far as they were not orphaned. */
export function descendants(pid: number): number[] {
  const found = [pid]
  for (let i = 0; i < found.length && found.length < 10_000; i++) found.push(...childrenOf(found[i] as number))
  return found
}

function childrenOf(pid: number): number[] {
  try {
    return readdirSync(`/proc/${pid}/task`).flatMap((thread) => {
      const text = readFileSync(`/proc/${pid}/task/${thread}/children`, 'latin1').trim()
      return text === '' ? [] : text.split(' ').map(Number)
    })
  } catch {
    return [] // it ended while we looked, or the kernel does not tell
  }
}

export function signalGroup(leader: number, signal: NodeJS.Signals | 0): boolean {
  return signalOne(-leader, signal)
}

function signalOne(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(pid, signal)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM' // there, but not ours to signal
  }
}

/** A group of zombies only, which nobody has collected yet, is gone. The cheap question comes first. */
async function isThere(leader: number): Promise<boolean> {
  if (!signalGroup(leader, 0)) return false
  const stat = statOf(leader)
  return (stat !== undefined && stat.state !== 'Z') || (await membersOf({ leader })).length > 0
}

/** By what the processes of a run are known. */
export interface RunProcesses {
  /** The leader's pid, while the group is known to be ours. */
  leader?: number | undefined
  mark?: string | undefined
  /** A user whom nothing else runs as. */
  uid?: number | undefined
  cgroup?: Cgroup | undefined
}

/** Those of the session or group, those in the control group, and those of the user or, without one, with the mark. */
export async function membersOf({ leader, mark, uid, cgroup }: RunProcesses): Promise<number[]> {
  const pids = (await readdir('/proc').catch(() => [])).filter((name) => /^\d+$/.test(name)).map(Number)
  const grouped = new Set(cgroup?.pids())
  const found: number[] = []
  for (const pid of pids) {
    if (pid === process.pid) continue
    const stat = parseStat(await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => ''))
    if (stat === undefined || stat.state === 'Z') continue
    const isMember = grouped.has(pid) || stat.pgrp === leader || stat.session === leader
    if (isMember || (uid === undefined ? await isMarked(pid, mark) : await runsAs(pid, uid))) found.push(pid)
  }
  return found
}

async function isMarked(pid: number, mark: string | undefined): Promise<boolean> {
  if (mark === undefined) return false
  const environment = await readFile(`/proc/${pid}/environ`, 'latin1').catch(() => '') // another user's
  return environment.startsWith(`HEDGEROW_RUN=${mark}\0`) || environment.includes(`\0HEDGEROW_RUN=${mark}\0`)
}

async function runsAs(pid: number, uid: number): Promise<boolean> {
  return uidsIn(await readFile(`/proc/${pid}/status`, 'latin1').catch(() => '')).includes(uid)
}

/** Real, effective, saved and file system uid, as proc_pid_status(5) has them. The owner of /proc/<pid> is no proof: prctl(2) changes it. */
export function uidsIn(status: string): number[] {
  const [, uids] = /^Uid:\s+(\d{1,10}(?:\t\d{1,10})*)$/m.exec(status) ?? []
  return uids === undefined ? [] : uids.split('\t').map(Number)
}

const LOOK_MS = 20
/** What SIGKILL has not ended by then hangs in the kernel; waiting longer would hang us too. */
const KILL_MS = 3_000

export interface EndingGroup extends RunProcesses {
  graceMs: number
  sleep: (ms: number) => Promise<void>
}

/** SIGTERM, then SIGKILL after the grace, to the group and to everything that left it. Resolves when nothing is left. */
export async function endGroup({ graceMs, sleep, ...run }: EndingGroup): Promise<void> {
  const { leader, uid, cgroup } = run
  if (leader !== undefined && signalGroup(leader, 'SIGTERM')) {
    for (let waited = 0; waited < graceMs && (await isThere(leader)); waited += LOOK_MS) await sleep(LOOK_MS)
    signalGroup(leader, 'SIGKILL')
  }
  for (let waited = 0; waited < KILL_MS; waited += LOOK_MS) {
    cgroup?.kill()
    const left = await membersOf(run)
    if (left.length === 0) return
    for (const pid of left) signalOne(pid, 'SIGKILL')
    if (uid !== undefined && waited > 0) await killAllOf(uid)
    await sleep(LOOK_MS)
  }
}

/** All at once, as that user: what forks faster than one can look cannot run from it. kill(2) spares whoever asks. */
async function killAllOf(uid: number): Promise<void> {
  const killer = spawn('/bin/sh', ['-c', 'kill -KILL -1'], { uid, gid: uid, stdio: 'ignore' })
  await once(killer, 'exit').catch(() => undefined) // it could not be started
}
