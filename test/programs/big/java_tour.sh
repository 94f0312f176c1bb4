# checkpoint: yes
# timeout: 180
# OpenJDK: javac, thread pools, sockets, mapped files, children, selectors, watches, null pointers; three collectors and the interpreter.
cat >A.java <<'J'
import java.util.*; import java.util.concurrent.*; import java.net.*; import java.io.*; import java.nio.*; import java.nio.channels.*; import java.nio.file.*;
public class A { public static void main(String[] a) throws Exception {
 var ex=Executors.newFixedThreadPool(8); var fs=new ArrayList<Future<Long>>(); for(int i=0;i<50;i++){ final int n=i; fs.add(ex.submit(()->{ long s=0; for(int k=0;k<100000;k++) s+=k*n; return s;})); } long t=0; for(var f:fs) t+=f.get(); System.out.println(t); ex.shutdown();
 var ss=new ServerSocket(0); var th=new Thread(()->{ try{ for(int i=0;i<20;i++){ var s=ss.accept(); var in=new BufferedReader(new InputStreamReader(s.getInputStream())); s.getOutputStream().write((in.readLine()+"!\n").getBytes()); s.close(); } }catch(Exception e){e.printStackTrace();} }); th.start();
 for(int i=0;i<20;i++){ var s=new Socket("127.0.0.1",ss.getLocalPort()); s.getOutputStream().write(("m"+i+"\n").getBytes()); System.out.print(new BufferedReader(new InputStreamReader(s.getInputStream())).readLine()+" "); s.close(); } System.out.println(); th.join();
 var p=Files.createTempFile("x","y"); try(var ch=FileChannel.open(p,StandardOpenOption.WRITE,StandardOpenOption.READ)){ var m=ch.map(FileChannel.MapMode.READ_WRITE,0,1<<20); m.putInt(5,42); m.force(); System.out.println(m.getInt(5)+" "+Files.size(p)); }
 var pr=new ProcessBuilder("sh","-c","echo child; exit 3").redirectErrorStream(true).start(); System.out.print(new String(pr.getInputStream().readAllBytes())+pr.waitFor()+"\n");
 var l=new ArrayList<byte[]>(); for(int i=0;i<200;i++){ l.add(new byte[1<<20]); if(l.size()>20) l.clear(); } System.gc();
 var sel=Selector.open(); var dc=DatagramChannel.open().bind(new InetSocketAddress("127.0.0.1",0)); dc.configureBlocking(false); dc.register(sel,SelectionKey.OP_READ); var d2=DatagramChannel.open(); d2.send(ByteBuffer.wrap("udp".getBytes()),dc.getLocalAddress()); System.out.println(sel.select(2000));
 var ws=FileSystems.getDefault().newWatchService(); var dir=Files.createTempDirectory("w"); dir.register(ws,StandardWatchEventKinds.ENTRY_CREATE); Files.createFile(dir.resolve("n")); System.out.println(ws.poll(5,TimeUnit.SECONDS).pollEvents().get(0).context());
 try { Object o=null; o.hashCode(); } catch(NullPointerException e){ System.out.println("npe"); }
 System.out.println(Runtime.getRuntime().availableProcessors()>0);
}}
J
javac A.java && java A; for gc in UseSerialGC UseParallelGC UseZGC; do java -XX:+$gc A | md5sum; done; java -Xint A | md5sum

