import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { run, text } from '../program.ts'

/*
 * The Docker engine, by its command line tool: that knows contexts, DOCKER_HOST and credentials. It must run on this machine,
 * because the lab puts cables into the namespaces of its containers.
 */
const LABEL = 'hedgerow.lab'
/** Of all containers and images of labs, for people: `docker ps --filter label=hedgerow.lab`. */
export const LAB_LABEL = LABEL

/** The tool, and the engine it is to ask also from another shell. */
export function dockerArgv(): string[] {
  const host = process.env['DOCKER_HOST']
  return host === undefined || host === '' ? ['docker'] : ['docker', '--host', host]
}

/** @throws Error with what the engine said */
export async function docker(argv: readonly string[], timeoutMs = 60_000): Promise<string> {
  const { code, stdout, stderr } = await run([...dockerArgv(), ...argv], { timeoutMs })
  if (code !== 0) throw new Error(`docker ${argv[0]}: ${said(stderr, stdout)}`)
  return stdout.trim()
}

/** Why containers cannot be hosts here, in words for a skip; `undefined` when they can. */
export async function lackingEngine(): Promise<string | undefined> {
  // `docker info` of 20.10 tells of its template instead of an engine that does not answer
  const { code, stdout, stderr } = await run([...dockerArgv(), 'version', '--format', '{{.Server.Os}}'])
  if (code === -1 && /ENOENT/.test(stderr)) return 'needs docker, the command line tool'
  if (code !== 0) return `needs a Docker engine that answers (${said(stderr, stdout)})`
  return stdout.trim() === 'linux' ? undefined : 'needs an engine that runs Linux containers'
}

/** The process that a container began with, as this machine sees it. @throws Error when it is not here */
export async function pidOf(container: string): Promise<number> {
  const [pid = '0', id = ''] = (await docker(['inspect', '--format', '{{.State.Pid}} {{.Id}}', container])).split(' ')
  const cgroups = pid === '0' ? '' : await text(['cat', `/proc/${pid}/cgroup`]).catch(() => '')
  const mounts = pid === '0' ? '' : await text(['cat', `/proc/${pid}/mountinfo`]).catch(() => '')
  if (!`${cgroups}${mounts}`.includes(id)) {
    throw new Error('the Docker engine runs elsewhere: its containers are not among the processes of this machine')
  }
  return Number(pid)
}

/** What tells this machine's processes from those of others that share an engine: their pids mean nothing here. */
export function machineMark(): string {
  const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
  return `${boot}/${readlinkSync('/proc/self/ns/pid')}`
}

/** Containers of labs on this machine whose names `isStale`. */
export async function removeStale(isStale: (name: string) => boolean): Promise<void> {
  const filter = ['--filter', `label=${LABEL}=${machineMark()}`]
  const names = (await docker(['ps', '--all', ...filter, '--format', '{{.Names}}'])).split('\n')
  const stale = names.filter((name) => name !== '' && isStale(name))
  if (stale.length > 0) await docker(['rm', '--force', '--volumes', ...stale])
}

/** Kept beside the namespace's other files while there are containers, so that a sweep finds them without asking an engine. */
const RECORD = 'containers'

export function recordContainers(folder: string, names: readonly string[]): void {
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, RECORD), JSON.stringify({ tool: dockerArgv(), names }))
}

export function forgetContainers(folder: string): void {
  rmSync(join(folder, RECORD), { force: true })
}

/** Removes the containers that are recorded there; synchronous, so that it also works while exiting. */
export function removeRecorded(folders: readonly string[]): void {
  const byTool = new Map<string, string[]>()
  for (const folder of folders) {
    try {
      const { tool, names } = JSON.parse(readFileSync(join(folder, RECORD), 'utf8')) as {
        tool: string[]
        names: string[]
      }
      byTool.set(JSON.stringify(tool), [...(byTool.get(JSON.stringify(tool)) ?? []), ...names])
    } catch {
      // a namespace without containers
    }
  }
  for (const [tool, names] of byTool) {
    const [file = '', ...argv] = JSON.parse(tool) as string[]
    try {
      execFileSync(file, [...argv, 'rm', '--force', '--volumes', ...names], { stdio: 'ignore', timeout: 60_000 })
    } catch {
      // that engine is gone, and its containers with it
    }
  }
}

function said(stderr: string, stdout: string): string {
  const lines = (stderr.trim() === '' ? stdout : stderr).trim().split('\n')
  return lines.filter((line) => !/^See 'docker|^$/.test(line)).join(' ')
}
