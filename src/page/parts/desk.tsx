import { type ComponentChildren, createContext } from 'preact'
import { useCallback, useContext, useEffect, useMemo, useRef, useState } from 'preact/hooks'
import type { Api } from '../live/api.ts'
import type { Me } from '../model/who.ts'

/** Something that is done only when it was confirmed. */
export interface Question {
  title: string
  text?: ComponentChildren
  /** Inputs with names; `act` gets what was entered. */
  fields?: ComponentChildren
  confirm: string
  isDanger?: boolean
  /** Resolves to what is to be said then, or to what is asked next. @throws Error whose message is shown, and the question stays. */
  act: (entered: FormData) => Promise<string | Question>
}

/** What every view can do. */
export interface Desk {
  api: Api
  /** Undefined until the root has said who asks. */
  me: Me | undefined
  ask: (question: Question) => void
  /** A line that goes by itself, or stays until the next while `isBusy`. */
  say: (text: string, isBusy?: boolean) => void
}

const DeskContext = createContext<Desk | undefined>(undefined)

export function useDesk(): Desk {
  const desk = useContext(DeskContext)
  if (desk === undefined) throw new Error('outside of a desk')
  return desk
}

const SAID_MS = 6_000

interface Props {
  api: Api
  me: Me | undefined
  children: ComponentChildren
}

export function DeskAround({ api, me, children }: Props) {
  const [question, setQuestion] = useState<Question>()
  const [said, setSaid] = useState<{ text: string; isBusy: boolean }>()
  const ask = useCallback((one: Question) => setQuestion(one), [])
  const say = useCallback((text: string, isBusy = false) => setSaid({ text, isBusy }), [])
  useEffect(() => {
    if (said === undefined || said.isBusy) return undefined
    const timer = setTimeout(() => setSaid(undefined), SAID_MS)
    return () => clearTimeout(timer)
  }, [said])
  const desk = useMemo(() => ({ api, me, ask, say }), [api, me, ask, say])
  return (
    <DeskContext.Provider value={desk}>
      {children}
      {question === undefined ? undefined : (
        <Dialog key={question.title} question={question} desk={desk} close={() => setQuestion(undefined)} />
      )}
      <div class="said" role="status">
        {said === undefined ? undefined : <p class={said.isBusy ? 'busy' : undefined}>{said.text}</p>}
      </div>
    </DeskContext.Provider>
  )
}

function Dialog({ question, desk, close }: { question: Question; desk: Desk; close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null)
  const [fault, setFault] = useState<string>()
  const [isBusy, setBusy] = useState(false)
  useEffect(() => dialog.current?.showModal(), [])
  const { title, text, fields, confirm, isDanger, act } = question
  const submit = (event: SubmitEvent) => {
    event.preventDefault()
    setBusy(true)
    setFault(undefined)
    act(new FormData(event.currentTarget as HTMLFormElement)).then(
      (result) => {
        if (typeof result !== 'string') return desk.ask(result)
        desk.say(result)
        return close()
      },
      (error: unknown) => {
        setFault((error as Error).message)
        setBusy(false)
      },
    )
  }
  return (
    <dialog ref={dialog} aria-labelledby="question" onClose={close}>
      <form method="dialog" onSubmit={submit}>
        <h2 id="question">{title}</h2>
        {text === undefined ? undefined : <div class="asked">{text}</div>}
        {fields}
        {fault === undefined ? undefined : (
          <p class="fault" role="alert">
            {fault}
          </p>
        )}
        <div class="answers">
          <button type="button" class="button" onClick={() => dialog.current?.close()}>
            Cancel
          </button>
          <button type="submit" class={isDanger === true ? 'button danger' : 'button primary'} disabled={isBusy}>
            {confirm}
          </button>
        </div>
      </form>
    </dialog>
  )
}

/** A labelled input of a question. */
export function Field({ label, hint, children }: { label: string; hint?: string; children: ComponentChildren }) {
  return (
    <label class="entry">
      <span>{label}</span>
      {children}
      {hint === undefined ? undefined : <small class="muted">{hint}</small>}
    </label>
  )
}
