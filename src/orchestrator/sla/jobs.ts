import { cronProblem } from '../../core/kit/cron.ts'
import type { JobSpec, ScheduleSpec } from '../spec.ts'
import { Fields } from './fields.ts'
import { quoted, type Findings } from './findings.ts'

/** `job` and `schedule` of a one-shot service; nothing where only defaults apply. */
export function readJob(service: Fields, findings: Findings): { job?: JobSpec; schedule?: ScheduleSpec } {
  for (const key of ['job', 'schedule'])
    if (service.has(key) && !service.flag('one_shot'))
      findings.fault(service.at(key), 'is for jobs, and this is a service that goes on', 'set "one_shot": true')
  const job = readTries(service, findings)
  const schedule = readSchedule(service, findings)
  return { ...(job === undefined ? {} : { job }), ...(schedule === undefined ? {} : { schedule }) }
}

function readTries(service: Fields, findings: Findings): JobSpec | undefined {
  if (!service.has('job')) return undefined
  const fields = Fields.read(service.value('job'), ['job'], service.at('job'), findings)
  const retries = fields?.number('retries')
  const backoffSeconds = fields?.number('backoff_seconds')
  const deadlineSeconds = fields?.number('deadline_seconds')
  const job: JobSpec = {
    ...(retries === undefined ? {} : { retries }),
    ...(backoffSeconds === undefined ? {} : { backoffSeconds }),
    ...(deadlineSeconds === undefined ? {} : { deadlineSeconds }),
  }
  return Object.keys(job).length === 0 ? undefined : job
}

function readSchedule(service: Fields, findings: Findings): ScheduleSpec | undefined {
  if (!service.has('schedule')) return undefined
  const fields = Fields.read(service.value('schedule'), ['schedule'], service.at('schedule'), findings)
  if (fields === undefined) return undefined
  const cron = fields.text('cron')?.trim()
  const remedy =
    'write minute, hour, day of the month, month and day of the week in UTC, for example "0 3 * * *", or @daily'
  if (cron === undefined) {
    if (!fields.isGiven('cron')) findings.fault(fields.at('cron'), 'is missing', remedy)
    return undefined
  }
  const problem = cronProblem(cron)
  if (problem !== undefined) {
    findings.fault(fields.at('cron'), `${quoted(cron)} is not a schedule: ${problem}`, remedy)
    return undefined
  }
  const startWithinSeconds = fields.number('start_within_seconds')
  const concurrency = fields.text('concurrency')
  return {
    cron,
    ...(concurrency === 'replace' || concurrency === 'allow' ? { concurrency } : {}),
    ...(startWithinSeconds === undefined ? {} : { startWithinSeconds }),
  }
}
