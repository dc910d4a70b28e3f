import { useEffect, useState } from 'preact/hooks'
import type { Api } from '../live/api.ts'
import { cordon, drain, drainStatus, uncordon, type DrainStatus } from '../live/calls.ts'
import { Field, useDesk } from '../parts/desk.tsx'
import type { NodeRow } from '../model/rows.ts'
import { counted, nameParts } from '../model/text.ts'
import { may } from '../model/who.ts'

export function NodeActions({ row }: { row: NodeRow }) {
  const desk = useDesk()
  const isCordoned = row.cordon !== undefined
  const isDraining = row.cordon?.drain !== undefined
  if (!may(desk.me, 'operate', 'any'))
    return isDraining ? <DrainProgress key={row.id} api={desk.api} id={row.id} /> : undefined
  return (
    <>
      <div class="actions">
        {isCordoned ? (
          <button type="button" class="button small" onClick={() => desk.ask(uncordonQuestion(desk.api, row.id))}>
            Uncordon
          </button>
        ) : (
          <button type="button" class="button small" onClick={() => desk.ask(cordonQuestion(desk.api, row.id))}>
            Cordon
          </button>
        )}
        <button
          type="button"
          class="button small danger"
          disabled={isDraining}
          onClick={() => desk.ask(drainQuestion(desk.api, row))}
        >
          Drain
        </button>
      </div>
      {isDraining ? <DrainProgress key={row.id} api={desk.api} id={row.id} /> : undefined}
    </>
  )
}

const Reason = () => (
  <Field label="Reason" hint="Optional. It is shown to everybody who wonders.">
    <input class="field" name="reason" maxLength={200} autofocus autocomplete="off" />
  </Field>
)

function reasonIn(entered: FormData): string {
  const reason = entered.get('reason')
  return typeof reason === 'string' ? reason.trim() : ''
}

function cordonQuestion(api: Api, id: string) {
  return {
    title: `Cordon ${id}`,
    text: 'It gets no new instances. What runs there goes on.',
    fields: <Reason />,
    confirm: 'Cordon',
    act: async (entered: FormData) => {
      const { changed } = await cordon(api, id, reasonIn(entered))
      return changed ? `${id} takes nothing new.` : `${id} was cordoned already.`
    },
  }
}

function uncordonQuestion(api: Api, id: string) {
  return {
    title: `Uncordon ${id}`,
    text: 'It takes instances again. A drain ends; what has moved stays where it is.',
    confirm: 'Uncordon',
    act: async () => {
      await uncordon(api, id)
      return `${id} takes instances again.`
    },
  }
}

function drainQuestion(api: Api, { id, instances }: NodeRow) {
  return {
    title: `Drain ${id}`,
    text: `Its ${counted(instances, 'instance')} move to other nodes, each when its successor is ready there, and it gets nothing new.`,
    fields: (
      <>
        <Reason />
        <label class="tick">
          <input type="checkbox" name="force" value="yes" /> Also stop what cannot move
        </label>
      </>
    ),
    confirm: 'Drain',
    isDanger: true,
    act: async (entered: FormData) => {
      const reason = reasonIn(entered)
      const { left } = await drain(api, id, { reason, force: entered.get('force') === 'yes' })
      return left.length === 0 ? `${id} is empty.` : `${counted(left.length, 'instance')} of ${id} to move.`
    },
  }
}

const POLL_MS = 2_000

function DrainProgress({ api, id }: { api: Api; id: string }) {
  const [status, setStatus] = useState<DrainStatus>()
  useEffect(() => {
    const gone = new AbortController()
    const ask = () => drainStatus(api, id, gone.signal).then(setStatus, () => undefined) // the frame says that the root is away
    void ask()
    const timer = setInterval(() => void ask(), POLL_MS)
    return () => {
      gone.abort()
      clearInterval(timer)
    }
  }, [api, id])
  if (status === undefined) return undefined
  if (status.left.length === 0)
    return (
      <p class="notice idle">
        {status.leaving === 0 ? 'Nothing is left on it.' : `${counted(status.leaving, 'run')} finish their flows.`}
      </p>
    )
  return (
    <ul class="notice busy plain">
      {status.left.map(({ instance, state, to, why }) => (
        <li key={instance}>
          <b>{nameParts(instance).name}</b> {state}
          {to === undefined ? '' : ` to ${to}`}
          {why === undefined ? '' : `: ${why}`}
        </li>
      ))}
    </ul>
  )
}
